-- Requests of a sequence: its id, which stands in the body, is noted in a header, by which a Triton is chosen.
-- sequences.py fills in what is between @, and joins this file to those that it leans on.

-- What is found ends the reading. A text is taken as it is written, escapes and all.
local function look_at_parameter(text, at, _, key)
  if key == "sequence_id" then
    error({ id = string.match(sub(text, at, past_value(text, at) - 1), '^"?(.-)"?$') }, 0)
  end
  return past_value(text, at)
end

local function look_at_member(text, at, _, key)
  return key == "parameters" and each_member(text, at, look_at_parameter) or past_value(text, at)
end

local function look_in_json(text)
  each_member(text, past_space(text, 1), look_at_member)
end

-- `parameters` is field 4, a map: key 1, value 2, of which field 2 is a number and field 3 a text.
local function look_in_message(text)
  each_field(text, 1, #text, function(field, wire, _, at, stop)
    if field ~= 4 or wire ~= 2 then
      return
    end
    local key, id = "", ""
    each_field(text, at, stop, function(part, part_wire, _, from, to)
      if part == 1 and part_wire == 2 then
        key = sub(text, from, to)
      elseif part == 2 and part_wire == 2 then
        each_field(text, from, to, function(_, _, _, first, last)
          id = sub(text, first, last)
        end)
      end
    end)
    if key == "sequence_id" then
      error({ id = id }, 0)
    end
  end)
end

-- What a request says; nothing of one that cannot be decompressed, which is refused when it is sent to a Triton.
local function decompressed(text, coding, limit)
  local is_fine, found = pcall(inflated, text, coding, limit)
  return is_fine and found or ""
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  local is_grpc = find(path, "/ModelInfer", -11, true)
  if not is_grpc and not find(path, "/infer", -6, true) then
    return
  end
  local body, head = handle:body(), is_grpc and HEAD or 0
  if not body or body:length() <= head then
    return
  end
  local text = body:getBytes(head, body:length() - head)
  local headers = handle:headers()
  local coding = headers:get(is_grpc and "grpc-encoding" or "content-encoding")
  if coding and not (is_grpc and byte(body:getBytes(0, 1)) == 0) then
    text = decompressed(text, coding, handle:filterContext():get("@LIMIT@"))
  end
  local said = headers:get("inference-header-content-length")
  local length = said and tonumber(said)
  local _, found = pcall(is_grpc and look_in_message or look_in_json, length and sub(text, 1, length) or text)
  local id = type(found) == "table" and found.id or ""
  if find(id, "[^%z0]") then -- 0 is none
    headers:replace("@SEQUENCE@", (string.gsub(id, "[^%w._-]", function(other)
      return string.format("%%%02X", byte(other))
    end)))
    headers:replace("@NO_RETRY@", "1")
  end
end
