-- Streams to a Triton (messages.lua tells their messages apart).
--
-- Each is inflated, checked and translated like the message of a single call. But the call has begun, so one that is refused
-- cannot end it: in its place, Triton gets a request for a model that nobody has, called by the reason. Triton answers
-- that with an error in its turn, under the request's id, and the stream goes on.

local REFUSES = "crossfade refuses: "
local AS_TRITON_SAYS = "^Request for unknown model: '" .. REFUSES .. "(.*)' is not found"

local function pass_stream(handle, passed)
  for chunk in handle:bodyChunks() do
    chunk:setBytes(passed(chunk:getBytes(0, chunk:length())))
  end
end

local function check_names(text, from, to, endpoint, version)
  local name, number = "", ""
  each_field(text, from, to, function(field, wire, _, at, stop)
    if field == 1 and wire == 2 then
      name = sub(text, at, stop)
    elseif field == 2 and wire == 2 then
      number = sub(text, at, stop)
    end
  end)
  local function quoted(given)
    return "'" .. sub(string.gsub(given, "[^%w._-]", "?"), 1, 63) .. "'"
  end
  if name ~= endpoint then
    refused("unknown model " .. quoted(name))
  elseif number ~= "" and number ~= version then
    refused("model '" .. endpoint .. "' has no version " .. quoted(number) .. " here, it has '" .. version .. "'")
  end
end

-- Of a message that cannot be read as well.
local function id_of(text, from, to)
  local id = ""
  pcall(each_field, text, from, to, function(field, wire, _, at, stop)
    if field == 3 and wire == 2 and stop - at < MAX_NAME then
      id = sub(text, at, stop)
    end
  end)
  return id
end

local function refusal_on_stream(reason, id)
  return framed(as_field(1, REFUSES .. reason) .. (id ~= "" and as_field(3, id) or ""))
end

-- Nobody else of the worker is answered between the messages of a chunk, so together they may be no larger than one.
local TOO_MUCH_TOGETHER = "the messages that came together are larger than " .. MAX_INFLATED .. " bytes when they are "
  .. "decompressed: send fewer before the first answer"

local function requests_of(facts, path, coding)
  local endpoint = string.match(path, "^/v2/models/([^/]+)")
  local most = 0 -- of `total_inflated`, in this chunk
  local passed = by_messages(facts.limit, function(text, from, to)
    if not text then
      return refusal_on_stream("a message is larger than the " .. facts.limit .. " bytes that the endpoint accepts", "")
    end
    local room = math.max(0, most - total_inflated)
    local too_large = room < min(facts.limit, MAX_INFLATED) and TOO_MUCH_TOGETHER or nil
    local is_fine, message, first, last = pcall(plain_message, text, from, to, coding, min(facts.limit, room), too_large)
    if not is_fine then
      return refusal_on_stream(as_refusal(message).text, "")
    end
    local is_right, translated = pcall(function()
      check_names(message, first, last, endpoint, facts.version)
      return translated_message(message, first, last, "ModelInfer", facts.model, facts.number)
    end)
    return is_right and translated or refusal_on_stream(as_refusal(translated).text, id_of(message, first, last))
  end)
  return function(text)
    most = total_inflated + MAX_INFLATED
    return passed(text)
  end
end

local function renamed_reply(text, from, to, endpoint, version)
  local parts = {}
  each_field(text, from + HEAD, to, function(field, _, begin, at, stop)
    local part = sub(text, begin, stop)
    if field == 1 then
      local said = sub(text, at, stop)
      part = as_field(1, string.match(said, AS_TRITON_SAYS) or said)
    elseif field == 2 then
      local is_versioned = false -- an error's is not
      each_field(text, at, stop, function(inner)
        is_versioned = is_versioned or inner == 2
      end)
      part = as_field(2, renamed(text, at, stop, endpoint, is_versioned and version or nil))
    end
    parts[#parts + 1] = part
  end)
  return framed(table.concat(parts))
end

local function replies_of(endpoint, version)
  return by_messages(math.huge, function(text, from, to)
    local is_fine, message = pcall(renamed_reply, text, from, to, endpoint, version)
    return is_fine and byte(text, from) == 0 and message or sub(text, from, to)
  end)
end
