-- Streams: messages one after the other, in chunks that know nothing of them.
--
-- Each is checked and translated like the message of a single call. But the call has begun, so one that is refused
-- cannot end it: in its place, Triton gets a request for a model that nobody has, called by the reason. Triton answers
-- that with an error in its turn, under the request's id, and the stream goes on.

local REFUSES = "crossfade refuses: "
local AS_TRITON_SAYS = "^Request for unknown model: '" .. REFUSES .. "(.*)' is not found"

-- Returns a function that takes what came and gives what may go on. `translate(text, from, to)` gives what a framed
-- message becomes; of one that is larger than `limit`, nothing is kept, and `translate()` gives what stands for it.
local function by_messages(limit, translate)
  local parts, size, needed, dropping = {}, 0, HEAD, 0
  return function(text)
    if dropping > 0 then
      local gone = math.min(dropping, #text)
      dropping, text = dropping - gone, sub(text, gone + 1)
    end
    parts[#parts + 1] = text
    size = size + #text
    if size < needed then
      return ""
    end
    text = table.concat(parts)
    local at, passed = 1, {}
    while true do
      local left = #text - at + 1
      needed = left < HEAD and HEAD or HEAD + length_after(text, at)
      if needed - HEAD > limit then
        passed[#passed + 1] = translate()
        dropping = math.max(0, needed - left)
        at, needed = at + needed - dropping, HEAD
      elseif left < needed then
        break
      else
        passed[#passed + 1] = translate(text, at, at + needed - 1)
        at = at + needed
      end
    end
    parts = { sub(text, at) }
    size = #parts[1]
    return table.concat(passed)
  end
end

local function pass_stream(handle, passed)
  for chunk in handle:bodyChunks() do
    chunk:setBytes(passed(chunk:getBytes(0, chunk:length())))
  end
end

local function check_names(text, from, to, endpoint, version)
  local name, number = "", ""
  each_field(text, from + HEAD, to, function(field, wire, _, at, stop)
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
  pcall(each_field, text, from + HEAD, to, function(field, wire, _, at, stop)
    if field == 3 and wire == 2 and stop - at < MAX_NAME then
      id = sub(text, at, stop)
    end
  end)
  return id
end

local function refusal_on_stream(reason, id)
  return framed(as_field(1, REFUSES .. reason) .. (id ~= "" and as_field(3, id) or ""))
end

local function requests_of(facts, path)
  local endpoint = string.match(path, "^/v2/models/([^/]+)")
  return by_messages(facts.limit, function(text, from, to)
    if not text then
      return refusal_on_stream("a message is larger than the " .. facts.limit .. " bytes that the endpoint accepts", "")
    end
    local is_fine, message = pcall(function()
      local translated = translated_message(text, from, to, "ModelInfer", facts.model, facts.number)
      check_names(text, from, to, endpoint, facts.version)
      return translated
    end)
    return is_fine and message or refusal_on_stream(as_refusal(message).text, id_of(text, from, to))
  end)
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
