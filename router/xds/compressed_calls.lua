-- gRPC calls whose messages may be compressed, and beginnings of streams: where their models' names are found, before
-- anybody is known to be let in. So no more is decompressed here than that takes. translation.py joins this file to those
-- that it leans on.

-- Of a call with one message: how much of it is looked at, as it came and decompressed. (Names have 63 bytes at the most.)
local MAX_LOOKED_AT = 16 * 1024
local MAX_BEGIN = 4 * 1024

-- Of a stream, whose first message Envoy's own filter reads in full.
local MAX_FIRST = 1024 * 1024
local TOO_LARGE_FIRST = "the first message of a stream may have " .. MAX_FIRST .. " bytes when it is compressed"
-- What of its beginning may wait, compressed or not.
local MAX_HELD = 8 * 1024 * 1024
local TOO_MUCH_AT_FIRST = "a stream began with " .. MAX_HELD .. " bytes in which no chunk ends with a message: wait for "
  .. "the first answer before sending on"
-- What of all streams' beginnings may wait in this Lua machine, whose memory Envoy's overload manager does not see; and
-- what a piece of it counts beside its bytes.
local MAX_HELD_BY_ALL = 32 * 1024 * 1024
local PIECE = 64
local TOO_MANY_AT_FIRST = "too many streams are beginning: try again"
local NOTED_AS = { ["400"] = "3", ["413"] = "8", ["415"] = "12", ["429"] = "8" } -- statuses of HTTP, and of gRPC
local UNREADABLE = "\1\0\0\0\0" -- marked as compressed

-- As what a call's messages may be compressed, or nil.
local function compression_of(headers)
  local coding = headers:get("grpc-encoding")
  return coding and coding ~= "identity" and find(headers:get("content-type") or "", "^application/grpc") and coding or nil
end

-- The name and the version at the beginning of a message: fields 1 and 2 of all that are asked for. Protobuf is written in
-- the order of its numbers, though it need not be.
local function names_of(text)
  local names, at = { "", "" }, 1
  while at <= #text and (byte(text, at) == 10 or byte(text, at) == 18) do
    local number, _, from, to = field_at(text, at, #text)
    names[number] = sub(text, from, to)
    at = to + 1
  end
  if names[1] == "" and at <= #text then
    refused("a message that may be compressed must begin with the name of its model")
  end
  return names[1], names[2]
end

-- Waits for the body: headers must be asked for again.
local function names_in_body(handle, coding)
  local body = handle:body()
  local text = body and body:getBytes(0, math.min(body:length(), MAX_LOOKED_AT)) or ""
  if #text < HEAD or byte(text, 1) > 1 then
    refused(NO_MESSAGE)
  end
  local begin = sub(text, HEAD + 1)
  return names_of(byte(text, 1) == 1 and inflated_begin(begin, coding, MAX_BEGIN) or sub(begin, 1, MAX_BEGIN))
end

-- How a stream's messages are made plain, together no larger than what its first one may be.
local function plain_frames(coding)
  local room = MAX_FIRST
  return function(text, from, to)
    if byte(text, from) == 0 then
      return sub(text, from, to)
    end
    local message = plain_message(text, from, to, coding, room, TOO_LARGE_FIRST)
    room = room - #message
    return framed(message)
  end
end

-- What the beginnings of all streams hold. When a stream is broken off, no script hears of it, but the collector does.
local held_by_all = 0

local function new_share()
  local share = { size = 0, guard = newproxy(true) }
  getmetatable(share.guard).__gc = function()
    held_by_all = held_by_all - share.size
  end
  return share
end

local function hold(share, size)
  held_by_all = held_by_all + size - share.size
  share.size = size
end

-- Those that are gone count until they are collected.
local function is_within_bounds()
  if held_by_all > MAX_HELD_BY_ALL then
    collectgarbage()
  end
  return held_by_all <= MAX_HELD_BY_ALL
end

-- The beginning of a stream, as Envoy's filter has to have it: it wants plain messages, of everything that comes together
-- with the end of the first one, and loses what then is no whole message (Envoy 1.40; a client that writes faster than it
-- may send has such chunks). So everything waits until there are whole messages alone; but not for the end of a first
-- message that is plain. After that, neither looks at anything more: when a script changes a chunk, Envoy sets
-- content-length to the length of that, which must not happen behind the translation.
--
-- Returns a function that takes what came and gives what may go on, whether that was all, and a refusal, if there is one.
-- `share`: where it counts what it holds.
local function beginning(coding, share)
  local passed, waiting = by_messages(math.huge, plain_frames(coding))
  local begin, ready, size, ahead = "", {}, 0, nil -- `ahead`: bytes to come of a plain first message
  local pieces = 0
  local function put(text)
    ready[#ready + 1] = text
    size = size + #text
  end
  return function(text)
    text, begin = begin .. text, ""
    if #text < HEAD and not ahead then
      begin = text
      return "", false
    elseif not ahead then
      local length, is_plain = length_after(text, 1), byte(text, 1) == 0
      if length > MAX_FIRST and not is_plain then
        return UNREADABLE, true, { status = "413", text = TOO_LARGE_FIRST }
      end
      ahead = is_plain and HEAD + length or 0
    end
    local first = sub(text, 1, ahead)
    ahead = ahead - #first
    if ahead > 0 then
      return first, false
    end
    put(first)
    local is_fine, more = pcall(passed, sub(text, #first + 1))
    put(is_fine and more or "")
    local left, refusal = waiting(), nil
    pieces = pieces + 1
    if not is_fine then
      refusal = as_refusal(more)
    elseif size > 0 and left == 0 then
      hold(share, 0)
      return table.concat(ready), true
    elseif size + left > MAX_HELD then
      refusal = { status = "413", text = TOO_MUCH_AT_FIRST }
    else
      hold(share, size + left + PIECE * pieces)
      if is_within_bounds() then
        return "", false
      end
      refusal = { status = "429", text = TOO_MANY_AT_FIRST }
    end
    hold(share, 0)
    put(UNREADABLE)
    return table.concat(ready), true, refusal
  end
end

-- Whether that was all. A function of its own: while a stream waits, no chunk is kept that nobody counts.
--
-- It is too late to refuse here: the filter does that, of what it cannot read, and what is noted is said for it
-- (local_replies.py).
local function pass_chunk(handle, chunk, passed)
  local came = chunk:getBytes(0, chunk:length())
  local text, is_all, refusal = passed(came)
  if text ~= came then
    chunk:setBytes(text)
  end
  if refusal then
    handle:streamInfo():dynamicMetadata():set("@NOTED@", NOTED_AS[refusal.status], refusal.text)
  end
  return is_all
end

local function pass_beginning(handle, coding)
  local share = new_share()
  local passed = beginning(coding, share)
  for chunk in handle:bodyChunks() do
    if pass_chunk(handle, chunk, passed) then
      return
    end
  end
  hold(share, 0) -- the client has ended it
end
