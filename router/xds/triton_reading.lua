-- What requests and replies are made of: JSON and protobuf, as far as they must be understood.
-- triton.py joins this file and those beside it into one script.

local find, sub, byte, char, floor = string.find, string.sub, string.byte, string.char, math.floor

local QUOTE, COMMA, COLON = 34, 44, 58
local OPEN_LIST, CLOSE_LIST, OPEN_MAP, CLOSE_MAP = 91, 93, 123, 125

-- Triton 2.51 ends at a nesting between 30,000 and 50,000: its parser recurses.
local MAX_DEPTH = 64

local NO_JSON = "the request is not JSON as the protocol has it"
local NO_MESSAGE = "the gRPC message cannot be read"

local function refused(text, status)
  error({ text = text, status = status or "400" }, 0)
end

-- Of a refusal, or of a mistake here: Envoy lets a request pass when a script fails.
local function as_refusal(failure)
  return type(failure) == "table" and failure or { status = "400", text = "the request could not be checked" }
end

-- JSON. Whatever is not certain is refused.

local function past_space(text, at)
  local first = byte(text, at)
  if first and first > 32 then
    return at -- nearly always, and looking for a pattern takes a tenth of a microsecond
  end
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

-- Calls `visit(position)` for what stands between two brackets, parted by commas; it returns the position after what it
-- read. Returns the position after the closing bracket.
local function each(text, at, open, close, visit)
  if byte(text, at) ~= open then
    refused(NO_JSON)
  end
  at = past_space(text, at + 1)
  if byte(text, at) == close then
    return at + 1
  end
  while true do
    at = past_space(text, visit(at))
    local found = byte(text, at)
    if found == close then
      return at + 1
    elseif found ~= COMMA then
      refused(NO_JSON)
    end
    at = past_space(text, at + 1)
  end
end

local function each_entry(text, at, visit)
  return each(text, at, OPEN_LIST, CLOSE_LIST, visit)
end

-- `visit(key, position)`.
local function each_member(text, at, visit)
  return each(text, at, OPEN_MAP, CLOSE_MAP, function(begin)
    local stop = byte(text, begin) == QUOTE and end_of_string(text, begin) or refused(NO_JSON)
    local key = sub(text, begin + 1, stop - 1)
    if find(key, "\\", 1, true) then
      refused("a key of the request's JSON is written with escapes")
    end
    local colon = past_space(text, stop + 1)
    if byte(text, colon) ~= COLON then
      refused(NO_JSON)
    end
    return visit(key, past_space(text, colon + 1))
  end)
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
-- them: of several, readers take the last. `visit` sees all fields.
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
    end
    if visit then
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

-- A message of gRPC stands behind five bytes: whether it is compressed, and its length.
local HEAD = 5

local function length_after(text, at)
  local first, second, third, fourth = byte(text, at + 1, at + 4)
  return ((first * 256 + second) * 256 + third) * 256 + fourth
end
