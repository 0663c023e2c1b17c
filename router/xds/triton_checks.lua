-- What crashes Triton 2.51, or what it would misread, is refused. (It ends at a shape such as [2^62], too.)

local MAX_DIMENSION = 2 ^ 31 - 1
local MAX_NAME = 1024

local NO_SHARED_MEMORY = "shared memory is not offered here: send the tensors in the request"
local NO_COMPRESSED_MESSAGE = "compressed gRPC messages are not supported"

-- Every element takes a byte at least, so a shape that promises more of them than there are bytes is a lie.
local function times(count, dimension, bytes)
  if not (dimension <= MAX_DIMENSION) or not (count * dimension <= bytes) then
    refused("an input's shape has more elements than the request has bytes")
  end
  return count * dimension
end

-- Triton repeats the shape in what it says, which over gRPC stands in a header.
local function one_more(dimensions)
  if dimensions == MAX_DEPTH then
    refused("an input's shape has more than " .. MAX_DEPTH .. " dimensions")
  end
  return dimensions + 1
end

local function check_shape(text, at, bytes)
  local count, dimensions = 1, 0
  return each_entry(text, at, function(from)
    dimensions = one_more(dimensions)
    local _, stop = find(text, "^%d+", from)
    if not stop then
      refused("an input's shape is not a list of whole numbers")
    end
    count = times(count, tonumber(sub(text, from, stop)), bytes)
    return stop + 1
  end)
end

local function check_parameters(text, at)
  return each_member(text, at, function(key, from)
    if key == "shared_memory_region" then
      refused(NO_SHARED_MEMORY)
    end
    return past_value(text, from)
  end)
end

local function note_output(seen, name)
  if #name > MAX_NAME then
    refused("an output's name is longer than " .. MAX_NAME .. " bytes")
  elseif seen[name] then
    refused("an output is asked for twice")
  end
  seen[name] = true
end

local function name_at(text, from)
  local stop = byte(text, from) == QUOTE and end_of_string(text, from) or refused(NO_JSON)
  local name = sub(text, from + 1, stop - 1)
  if find(name, "\\", 1, true) then
    refused("a tensor's name is written with escapes")
  end
  return name, stop + 1
end

local function check_json(text, bytes)
  local seen = {}
  local stop = each_member(text, past_space(text, 1), function(key, at)
    if key == "inputs" then
      return each_entry(text, at, function(input)
        return each_member(text, input, function(word, from)
          if word == "shape" then
            return check_shape(text, from, bytes)
          elseif word == "parameters" then
            return check_parameters(text, from)
          elseif word == "name" then
            local name, after = name_at(text, from)
            if #name > MAX_NAME then
              refused("an input's name is longer than " .. MAX_NAME .. " bytes")
            end
            return after
          end
          return past_value(text, from)
        end)
      end)
    elseif key == "outputs" then
      return each_entry(text, at, function(output)
        return each_member(text, output, function(word, from)
          if word == "name" then
            local name, after = name_at(text, from)
            note_output(seen, name)
            return after
          elseif word == "parameters" then
            return check_parameters(text, from)
          end
          return past_value(text, from)
        end)
      end)
    end
    return past_value(text, at)
  end)
  if past_space(text, stop) <= #text then
    refused(NO_JSON)
  end
end

-- A tensor's name is field 1, an input's shape field 3; parameters are entries of a map: key 1, value 2.
local function check_tensor(text, from, to, parameters, bytes)
  local count, dimensions, name = 1, 0, ""
  each_field(text, from, to, function(number, wire, _, at, stop)
    if number == 1 and wire == 2 then
      name = sub(text, at, stop)
      if #name > MAX_NAME then
        refused("a tensor's name is longer than " .. MAX_NAME .. " bytes")
      end
    elseif number == 3 and bytes then
      while at <= stop do -- packed, or a single one
        local dimension
        dimensions = one_more(dimensions)
        dimension, at = varint(text, at)
        count = times(count, dimension, bytes)
      end
    elseif number == parameters and wire == 2 then
      each_field(text, at, stop, function(part, _, _, key, key_stop)
        if part == 1 and sub(text, key, key_stop) == "shared_memory_region" then
          refused(NO_SHARED_MEMORY)
        end
      end)
    end
  end)
  return name
end

-- The framed message at `from`..`to` as Triton shall get it.
local function translated_message(text, from, to, method, model, number)
  local length = to - from + 1 - HEAD
  if length < 0 or length_after(text, from) ~= length then
    refused(NO_MESSAGE)
  elseif byte(text, from) ~= 0 then
    refused(NO_COMPRESSED_MESSAGE)
  end
  local seen = {}
  local visit = method == "ModelInfer"
    and function(field, wire, at, stop)
      if field == 3 and stop - at >= MAX_NAME then
        refused("the request's id is longer than " .. MAX_NAME .. " bytes") -- Triton would repeat it in a header
      elseif field == 5 and wire == 2 then
        check_tensor(text, at, stop, 4, length)
      elseif field == 6 and wire == 2 then
        note_output(seen, check_tensor(text, at, stop, 2, nil))
      end
    end
  return framed(renamed(text, from + HEAD, to, model, number, visit))
end
