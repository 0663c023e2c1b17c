-- What stands between Envoy and a Triton: names are translated, and what crashes or misleads a Triton is refused.
-- triton.py fills in what is between @, and says where this runs and what it costs.
--
-- It runs once for every attempt. The attempts of a request share its headers, not its body: an attempt must begin from
-- the path that the route chose, and put back what a replica of ours needs after a Triton did not get it.

local find, sub, byte, char, floor = string.find, string.sub, string.byte, string.char, math.floor

local QUOTE, COMMA, COLON, BACKSLASH = 34, 44, 58, 92
local OPEN_LIST, CLOSE_LIST, OPEN_MAP, CLOSE_MAP = 91, 93, 123, 125

-- Triton 2.51 ends at a nesting between 30,000 and 50,000 (its parser recurses), and at a shape such as [2^62].
local MAX_DEPTH = 64
local MAX_DIMENSION = 2 ^ 31 - 1
local MAX_NAME = 1024

local NO_JSON = "the request is not JSON as the protocol has it"
local NO_MESSAGE = "the gRPC message cannot be read"
local NO_SHARED_MEMORY = "shared memory is not offered here: send the tensors in the request"

local function refused(text, status)
  error({ text = text, status = status or "400" }, 0)
end

-- JSON, as far as it must be understood. Whatever is not certain is refused.

local function past_space(text, at)
  local _, stop = find(text, "^[ \t\r\n]*", at)
  return stop + 1
end

local function end_of_string(text, at)
  at = at + 1
  while true do
    at = find(text, '["\\]', at)
    if not at then
      refused(NO_JSON)
    elseif byte(text, at) == QUOTE then
      return at
    end
    at = at + 2
  end
end

-- The position after the value at `at`.
local function past_value(text, at)
  local first = byte(text, at)
  if first == QUOTE then
    return end_of_string(text, at) + 1
  elseif first ~= OPEN_LIST and first ~= OPEN_MAP then
    local _, stop = find(text, "^[%w.+-]+", at)
    return stop and stop + 1 or refused(NO_JSON)
  end
  local depth = 0
  repeat
    at = find(text, '["%[%]{}]', at)
    local found = at and byte(text, at) or refused(NO_JSON)
    if found == QUOTE then
      at = end_of_string(text, at)
    elseif found == OPEN_LIST or found == OPEN_MAP then
      depth = depth + 1
      if depth > MAX_DEPTH then
        refused("the request's JSON is nested deeper than " .. MAX_DEPTH .. " levels")
      end
    else
      depth = depth - 1
    end
    at = at + 1
  until depth == 0
  return at
end

-- Calls `visit(position)` for each entry, which returns the position after it. Returns the position after the list.
local function each_entry(text, at, visit)
  if byte(text, at) ~= OPEN_LIST then
    refused(NO_JSON)
  end
  at = past_space(text, at + 1)
  if byte(text, at) == CLOSE_LIST then
    return at + 1
  end
  while true do
    at = past_space(text, visit(at))
    local found = byte(text, at)
    if found == CLOSE_LIST then
      return at + 1
    elseif found ~= COMMA then
      refused(NO_JSON)
    end
    at = past_space(text, at + 1)
  end
end

-- The same with `visit(key, position)`.
local function each_member(text, at, visit)
  if byte(text, at) ~= OPEN_MAP then
    refused(NO_JSON)
  end
  at = past_space(text, at + 1)
  if byte(text, at) == CLOSE_MAP then
    return at + 1
  end
  while true do
    local stop = byte(text, at) == QUOTE and end_of_string(text, at) or refused(NO_JSON)
    local key = sub(text, at + 1, stop - 1)
    if find(key, "\\", 1, true) then
      refused("a key of the request's JSON is written with escapes")
    end
    at = past_space(text, stop + 1)
    if byte(text, at) ~= COLON then
      refused(NO_JSON)
    end
    at = past_space(text, visit(key, past_space(text, at + 1)))
    local found = byte(text, at)
    if found == CLOSE_MAP then
      return at + 1
    elseif found ~= COMMA then
      refused(NO_JSON)
    end
    at = past_space(text, at + 1)
  end
end

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

-- Protobuf (https://protobuf.dev/programming-guides/encoding). Numbers are doubles: exact up to 2^53, which suffices.

local function varint(text, at)
  local value, scale = 0, 1
  for _ = 1, 10 do
    local part = byte(text, at) or refused(NO_MESSAGE)
    at = at + 1
    if part < 128 then
      return value + part * scale, at
    end
    value = value + (part - 128) * scale
    scale = scale * 128
  end
  refused(NO_MESSAGE)
end

-- Calls `visit(number, wire type, where the field begins, where its value begins, where it ends)`.
local function each_field(text, at, stop, visit)
  while at <= stop do
    local tag, from = varint(text, at)
    local wire, to = tag % 8, nil
    if tag >= 2 ^ 32 then
      refused(NO_MESSAGE) -- some readers would cut it off, and see another field
    elseif wire == 2 then
      local length
      length, from = varint(text, from)
      to = from + length - 1
    elseif wire == 0 then
      local _, after = varint(text, from)
      to = after - 1
    elseif wire == 1 then
      to = from + 7
    elseif wire == 5 then
      to = from + 3
    else
      refused(NO_MESSAGE)
    end
    if to > stop then
      refused(NO_MESSAGE)
    end
    visit(floor(tag / 8), wire, at, from, to)
    at = to + 1
  end
end

local function as_field(number, text)
  local length, head = #text, char(number * 8 + 2)
  while length >= 128 do
    head = head .. char(length % 128 + 128)
    length = floor(length / 128)
  end
  return head .. char(length) .. text
end

-- The message at `from`..`to` with field 1, and 2 unless `version` is nil, replaced wherever and however often it had
-- them: of several, readers take the last. `visit` sees the other fields.
local function renamed(text, from, to, name, version, visit)
  local kept, begin = { as_field(1, name) }, from
  if version and version ~= "" then
    kept[2] = as_field(2, version)
  end
  each_field(text, from, to, function(number, wire, at, value, stop)
    if number == 1 or (number == 2 and version) then
      if at > begin then
        kept[#kept + 1] = sub(text, begin, at - 1)
      end
      begin = stop + 1
    elseif visit then
      visit(number, wire, value, stop)
    end
  end)
  if begin <= to then
    kept[#kept + 1] = sub(text, begin, to)
  end
  return table.concat(kept)
end

local function framed(message)
  local length = #message
  local size = char(floor(length / 2 ^ 24) % 256, floor(length / 2 ^ 16) % 256, floor(length / 256) % 256, length % 256)
  return "\0" .. size .. message
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

local function translated_message(body, method, model, number)
  local length = #body - 5
  local promised = length >= 0 and ((byte(body, 2) * 256 + byte(body, 3)) * 256 + byte(body, 4)) * 256 + byte(body, 5)
  if promised ~= length or byte(body, 1) ~= 0 then
    refused(NO_MESSAGE)
  end
  local seen = {}
  local visit = method == "ModelInfer"
    and function(field, wire, from, to)
      if field == 3 and to - from >= MAX_NAME then
        refused("the request's id is longer than " .. MAX_NAME .. " bytes") -- Triton would repeat it in a header
      elseif field == 5 and wire == 2 then
        check_tensor(body, from, to, 4, length)
      elseif field == 6 and wire == 2 then
        note_output(seen, check_tensor(body, from, to, 2, nil))
      end
    end
  return framed(renamed(body, 6, #body, model, number, visit))
end

-- Requests

-- Waits, and what `handle` gave before is not valid afterwards: headers must be asked for again.
local function whole_body(handle)
  local body = handle:body()
  return body, body and body:getBytes(0, body:length()) or ""
end

local function check_infer(handle)
  if handle:headers():get("content-encoding") then
    refused("@COMPRESSED@", "415")
  end
  local _, text = whole_body(handle)
  local headers = handle:headers()
  local said = headers:get("inference-header-content-length")
  if not said then
    return check_json(text, #text)
  end
  local length = find(said, "^%d+$") and tonumber(said) or #text + 1
  if length > #text then
    refused("inference-header-content-length is no length within the body")
  end
  headers:replace("inference-header-content-length", said) -- once
  if length > 0 then
    check_json(sub(text, 1, length), #text)
  end
end

local HTTP_CALLS = { ["POST/infer"] = true, ["GET"] = true, ["GET/ready"] = true, ["GET/config"] = true, ["GET/stats"] = true }

-- Returns the status and the words of a refusal, or nothing.
local function for_triton(handle, served, path)
  local headers = handle:headers()
  local model, number = string.match(served, "^([^|]+)|([^|]*)|")
  local rest = string.match(path, "^/v2/models/[^/]+/versions/[^/]+(.*)$") or string.match(path, "^/v2/models/[^/]+(.*)$")
  local method = rest and string.match(rest, "^/(Model%a+)$")
  if method == "ModelStreamInfer" then
    return "404", "streams are not offered by this deployment, use ModelInfer"
  end
  if method then
    headers:replace(":path", "/@SERVICE@/" .. method)
    local body, text = whole_body(handle)
    local message = translated_message(text, method, model, number)
    body:setBytes(message)
    handle:headers():replace("content-length", tostring(#message))
    return
  end
  if not rest or not HTTP_CALLS[headers:get(":method") .. rest] then
    return "404", "no such call"
  end
  headers:replace(":path", "/v2/models/" .. model .. (number ~= "" and "/versions/" .. number or "") .. rest)
  if rest == "/infer" then
    check_infer(handle)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get("@ROUTED_PATH@")
  local is_again = path ~= nil
  if not is_again then
    path = headers:get(":path")
    headers:add("@ROUTED_PATH@", path)
  end
  local served = sub(headers:get("@UPSTREAM@"), 2)
  headers:remove("@UPSTREAM@")
  if served == "" then
    headers:replace(":path", path)
    headers:replace("@TOKEN_HEADER@", "@TOKEN@")
    local body = is_again and not headers:get("@STREAM@") and handle:body() -- a stream's would not end
    if body then
      handle:headers():replace("content-length", tostring(body:length())) -- a Triton's message was of another length
    end
    return
  end
  headers:remove("@TOKEN_HEADER@")
  headers:remove("accept-encoding") -- a compressed reply could not be given its names
  local is_fine, status, text = pcall(for_triton, handle, served, path)
  if not is_fine then
    -- Envoy lets a request pass when a script fails.
    local refusal = type(status) == "table" and status or { status = "400", text = "the request could not be checked" }
    status, text = refusal.status, refusal.text
  end
  if status then
    handle:respond({ [":status"] = status }, text) -- local_replies.py says it in the client's protocol
  end
end

-- Replies

local JSON_NAMES = {
  { '"model_name":"', '^,"model_version":"[^"]*"', ',"model_version":"', '"' }, -- infer
  { '"name":"', '^,"versions":%[[^%]]*%]', ',"versions":["', '"]' }, -- metadata
  { '"name":"', '^,"version":"[^"]*"', ',"version":"', '"' }, -- statistics
  { '"name":"', "^", "", nil }, -- configuration
}

local function renamed_json(text, model, endpoint, version)
  for _, names in ipairs(JSON_NAMES) do
    local from, to = find(text, names[1] .. model .. '"', 1, true)
    local _, stop = find(text, names[2], (to or #text) + 1)
    if from and stop then
      local described = names[4] and names[3] .. version .. names[4] or ""
      return sub(text, 1, from - 1) .. names[1] .. endpoint .. '"' .. described .. sub(text, stop + 1)
    end
  end
  return text
end

local function renamed_message(text, method, endpoint, version)
  if #text < 5 or byte(text, 1) ~= 0 then
    return text
  elseif method == "ModelInfer" or method == "ModelMetadata" then
    return framed(renamed(text, 6, #text, endpoint, version))
  elseif method == "ModelStatistics" or method == "ModelConfig" then
    local inner = {}
    each_field(text, 6, #text, function(_, _, _, from, to)
      inner[#inner + 1] = as_field(1, renamed(text, from, to, endpoint, method == "ModelStatistics" and version or nil))
    end)
    return framed(table.concat(inner))
  end
  return text
end

-- Of what Triton says with a status that blames it: what the caller did, and what was not begun.
local function judged(handle, status)
  local said = status and select(2, whole_body(handle)) or handle:headers():get("grpc-message") or ""
  local headers = handle:headers()
  if find(said, "Request for unknown model", 1, true) or (status and find(said, "Model version not ready", 1, true)) then
    headers:replace("@RETRY_HEADER@", "1")
    headers:replace(status and ":status" or "grpc-status", status and "503" or "14")
  elseif status == "500" and find(said, '^{"error":"Unable to %a+ ') then
    headers:replace(":status", "400")
  end
  if status then
    headers:replace("content-type", "application/json")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local model, version, endpoint, called =
    string.match(headers:get("@UPSTREAM@") or "", "^=([^|]+)|[^|]*|([^|]*)|/v2/models/([^/]+)[^|]*|(.*)$")
  headers:remove("@UPSTREAM@")
  if not model then
    return
  end
  local method = string.match(called, "^/@SERVICE@/(%a+)$")
  local failure = method and headers:get("grpc-status") or headers:get(":status")
  if failure and failure ~= "0" and failure ~= "200" then
    return judged(handle, not method and failure or nil)
  end
  local body, text = whole_body(handle)
  if text == "" then
    return
  end
  local changed = method and renamed_message(text, method, endpoint, version) or renamed_json(text, model, endpoint, version)
  headers = handle:headers()
  if not method and headers:get("inference-header-content-length") then
    local length = tonumber(headers:get("inference-header-content-length"))
    headers:replace("inference-header-content-length", tostring(length + #changed - #text))
  end
  body:setBytes(changed)
  if headers:get("content-length") then
    headers:replace("content-length", tostring(#changed))
  end
end
