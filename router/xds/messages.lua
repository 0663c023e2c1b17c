-- gRPC's messages: compressed or not, and on a stream one after the other, in chunks that know nothing of them.

-- The message of the frame at `from`..`to`: a text, and where it begins and ends there. `coding`: the call's, or nil.
-- `limit` and `too_large`: of one that is compressed.
local function plain_message(text, from, to, coding, limit, too_large)
  local length, flag = to - from + 1 - HEAD, byte(text, from)
  if length < 0 or length_after(text, from) ~= length or flag > 1 then
    refused(NO_MESSAGE)
  elseif flag == 0 then
    return text, from + HEAD, to
  elseif not coding or coding == "identity" then
    refused("the gRPC frame is marked as compressed, but grpc-encoding names no compression")
  end
  local message = inflated(sub(text, from + HEAD, to), coding, limit, too_large)
  return message, 1, #message
end

-- Returns a function that takes what came and gives what may go on, and one that tells how many bytes have to wait. `translate(text,
-- from, to)` gives what a framed message becomes; of one that is larger than `limit`, nothing is kept, and `translate()`
-- gives what stands for it.
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
  end, function()
    return size
  end
end
