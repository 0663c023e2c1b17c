-- What crashes Triton 2.51, or what it would misread, is refused. (It ends at a shape such as [2^62], too.)

local MAX_DIMENSION = 2 ^ 31 - 1
local MAX_NAME = 1024

local NO_SHARED_MEMORY = "shared memory is not offered here: send the tensors in the request"

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

local function check_dimension(text, at, shape)
  local value, stop = 0, at
  local digit = byte(text, stop)
  while digit and digit >= 48 and digit <= 57 do
    value = value * 10 + digit - 48
    stop = stop + 1
    digit = byte(text, stop)
  end
  if stop == at then
    refused("an input's shape is not a list of whole numbers")
  end
  shape.dimensions = one_more(shape.dimensions)
  shape.count = times(shape.count, value, shape.bytes)
  return stop
end

local function check_parameter(text, at, _, key)
  if key == "shared_memory_region" then
    refused(NO_SHARED_MEMORY)
  end
  return past_value(text, at)
end

local function note_output(seen, name)
  if #name > MAX_NAME then
    refused("an output's name is longer than " .. MAX_NAME .. " bytes")
  elseif seen[name] then
    refused("an output is asked for twice")
  end
  seen[name] = true
end

local function check_input_member(text, at, request, key)
  if key == "shape" then
    return each_entry(text, at, check_dimension, { count = 1, dimensions = 0, bytes = request.bytes })
  elseif key == "parameters" then
    return each_member(text, at, check_parameter)
  elseif key == "name" then
    local name, after = plain_text(text, at, "a tensor's name")
    if #name > MAX_NAME then
      refused("an input's name is longer than " .. MAX_NAME .. " bytes")
    end
    return after
  end
  return past_value(text, at)
end

local function check_output_member(text, at, request, key)
  if key == "name" then
    local name, after = plain_text(text, at, "a tensor's name")
    note_output(request.outputs, name)
    return after
  elseif key == "parameters" then
    return each_member(text, at, check_parameter)
  end
  return past_value(text, at)
end

local function check_input(text, at, request)
  return each_member(text, at, check_input_member, request)
end

local function check_output(text, at, request)
  return each_member(text, at, check_output_member, request)
end

local function check_request_member(text, at, request, key)
  if key == "inputs" then
    return each_entry(text, at, check_input, request)
  elseif key == "outputs" then
    return each_entry(text, at, check_output, request)
  end
  return past_value(text, at)
end

-- `bytes`: how many the request has, with what follows the JSON.
local function check_json(text, bytes)
  local stop = each_member(text, past_space(text, 1), check_request_member, { bytes = bytes, outputs = {} })
  if past_space(text, stop) <= #text then
    refused(NO_JSON)
  end
end

-- A tensor's name is field 1, an input's shape field 3; parameters are entries of a map: key 1, value 2.
local function check_tensor(text, at, to, parameters, bytes)
  local count, dimensions, name = 1, 0, ""
  while at <= to do
    local number, wire, from, stop = field_at(text, at, to)
    if number == 1 and wire == 2 then
      name = sub(text, from, stop)
      if #name > MAX_NAME then
        refused("a tensor's name is longer than " .. MAX_NAME .. " bytes")
      end
    elseif number == 3 and bytes then
      while from <= stop do -- packed, or a single one
        local dimension
        dimensions = one_more(dimensions)
        dimension, from = varint(text, from)
        count = times(count, dimension, bytes)
      end
    elseif number == parameters and wire == 2 then
      each_field(text, from, stop, function(part, _, _, key, key_stop)
        if part == 1 and sub(text, key, key_stop) == "shared_memory_region" then
          refused(NO_SHARED_MEMORY)
        end
      end)
    end
    at = stop + 1
  end
  return name
end

local function check_field(text, field, wire, at, stop, request)
  if field == 3 and stop - at >= MAX_NAME then
    refused("the request's id is longer than " .. MAX_NAME .. " bytes") -- Triton would repeat it in a header
  elseif field == 5 and wire == 2 then
    check_tensor(text, at, stop, 4, request.bytes)
  elseif field == 6 and wire == 2 then
    note_output(request.outputs, check_tensor(text, at, stop, 2, nil))
  end
end

-- The message at `from`..`to` as Triton shall get it, framed.
local function translated_message(text, from, to, method, model, number)
  local check = method == "ModelInfer" and check_field or nil
  return framed(renamed(text, from, to, model, number, check, check and { bytes = to - from + 1, outputs = {} }))
end
