-- Compressed messages: what stands around the data that inflate.lua reads, and what tells whether they came right.
--
-- As with replicas of ours (serving/compression.py): gzip (RFC 1952), and deflate, which is zlib's format (RFC 1950; RFC
-- 9110 §8.4.1.2). Nothing may follow. Further members of gzip would be legal; of a million empty ones, each takes its time.

-- How large what was inflated may be, whatever else is allowed: the worker does nothing else meanwhile.
local MAX_INFLATED = 16 * 1024 * 1024
local TOO_LARGE_HERE = "a compressed request may have " .. MAX_INFLATED .. " bytes when it is decompressed"
-- What is kept of the memory that it took.
local MAX_KEPT = 1024 * 1024

-- CRC-32 (RFC 1952 §8), four bytes a turn: the second table is for bytes that one byte follows, and so on.

local CRC_TABLES = ffi.new("int32_t[?]", 4 * 256)
for index = 0, 255 do
  local crc = index
  for _ = 1, 8 do
    crc = bxor(rshift(crc, 1), band(crc, 1) * 0xEDB88320)
  end
  CRC_TABLES[index] = crc
end
for index = 256, 1023 do
  local before = CRC_TABLES[index - 256]
  CRC_TABLES[index] = bxor(rshift(before, 8), CRC_TABLES[band(before, 255)])
end

local function crc32(bytes, size)
  local crc, at = -1, 0
  while at + 4 <= size do
    crc = bxor(crc, bytes[at], lshift(bytes[at + 1], 8), lshift(bytes[at + 2], 16), lshift(bytes[at + 3], 24))
    crc = bxor(
      CRC_TABLES[768 + band(crc, 255)],
      CRC_TABLES[512 + band(rshift(crc, 8), 255)],
      CRC_TABLES[256 + band(rshift(crc, 16), 255)],
      CRC_TABLES[rshift(crc, 24)]
    )
    at = at + 4
  end
  while at < size do
    crc = bxor(rshift(crc, 8), CRC_TABLES[band(bxor(crc, bytes[at]), 255)])
    at = at + 1
  end
  return bnot(crc)
end

-- Adler-32 (RFC 1950 §8.2). So many bytes can be added before the sums have to be taken modulo 65521.
local ADLER_RUN = 3800

local function adler32(bytes, size)
  local low, high, at = 1, 0, 0
  while at < size do
    local stop = min(at + ADLER_RUN, size)
    while at < stop do
      low = low + bytes[at]
      high = high + low
      at = at + 1
    end
    low, high = low % 65521, high % 65521
  end
  return bor(lshift(high, 16), low)
end

-- Four bytes at `at`, as bit has numbers.
local function lowest_first(text, at)
  local first, second, third, fourth = byte(text, at, at + 3)
  return fourth and bor(first, lshift(second, 8), lshift(third, 16), lshift(fourth, 24)) or refused(CUT_OFF)
end

-- Where the data of a member of gzip begin (RFC 1952 §2.3).
local function past_gzip_head(text)
  local first, second, method, flags = byte(text, 1, 4)
  if not flags then
    refused(CUT_OFF)
  elseif first ~= 31 or second ~= 139 or method ~= 8 or flags >= 32 then
    refused(BROKEN .. "no head of gzip")
  end
  local at = 11
  if band(flags, 4) ~= 0 then -- more fields, behind their length
    local low, high = byte(text, at, at + 1)
    at = at + 2 + (high and low + 256 * high or refused(CUT_OFF))
  end
  for flag = 8, 16, 8 do -- a name and a comment, each with a zero at its end
    if band(flags, flag) ~= 0 then
      at = (find(text, "\0", at, true) or refused(CUT_OFF)) + 1
    end
  end
  if band(flags, 2) ~= 0 then -- the head's own checksum: two bytes of it
    local low, high = byte(text, at, at + 1)
    if not high then
      refused(CUT_OFF)
    elseif band(crc32(ffi.cast("const uint8_t *", text), at - 1), 65535) ~= low + 256 * high then
      refused(BROKEN .. "the checksum of the head is wrong")
    end
    at = at + 2
  end
  return at <= #text and at or refused(CUT_OFF)
end

-- RFC 1950 §2.2. A dictionary that both sides know is none that is known here.
local function past_zlib_head(text)
  local method, flags = byte(text, 1, 2)
  if not flags then
    refused(CUT_OFF)
  elseif band(method, 15) ~= 8 or method >= 128 or (256 * method + flags) % 31 ~= 0 or band(flags, 32) ~= 0 then
    refused(BROKEN .. "no head of zlib")
  end
  return 3
end

-- Return where that ends which tells whether these bytes are right.

local function verify_gzip(text, at, bytes, size)
  if lowest_first(text, at) ~= crc32(bytes, size) or lowest_first(text, at + 4) ~= bit.tobit(size) then
    refused(BROKEN .. "the checksum is wrong")
  end
  return at + 8
end

local function verify_zlib(text, at, bytes, size)
  if bit.bswap(lowest_first(text, at)) ~= adler32(bytes, size) then
    refused(BROKEN .. "the checksum is wrong")
  end
  return at + 4
end

local FORMATS = {
  gzip = { past_head = past_gzip_head, verify = verify_gzip },
  deflate = { past_head = past_zlib_head, verify = verify_zlib },
}
FORMATS["x-gzip"] = FORMATS.gzip

local function format_of(coding)
  local name = string.match(string.lower(coding), "^%s*(.-)%s*$")
  local quoted = sub(string.gsub(name, "[^%w._-]", "?"), 1, 63)
  return FORMATS[name] or refused("the compression '" .. quoted .. "' is not supported, use gzip or deflate", "415")
end

-- After a failure: there may be more than was committed, no more than `grown` has made room for.
local function most_written()
  return #OUT + max(#OUT, 4 * IN.size, 1024)
end

-- The collector sees to large texts late, and lets the machine grow by as much as it had when they were there: so it is
-- called, which takes 0.2 ms where little else lives.
local function let_go(made)
  IN.text, IN.size = "", 0
  OUT:reset()
  if made > MAX_KEPT then
    OUT:free()
    collectgarbage()
  end
end

local function inflated_by(format, text, limit)
  local size, at = inflate(text, format.past_head(text), limit)
  at = format.verify(text, at, OUT:ref(), size)
  if at <= #text then
    refused("the compressed data are followed by " .. #text - at + 1 .. " more bytes")
  end
  return OUT:get()
end

-- How many bytes have been made so far, also of what then was refused: the work that it was.
local total_inflated = 0

-- What is compressed in the text: `limit` bytes at the most. `too_large`: what to say when it is more.
local function inflated(text, coding, limit, too_large)
  if coding == "identity" then
    return text
  end
  local is_fine, found = pcall(inflated_by, format_of(coding), text, min(limit, MAX_INFLATED))
  local made = is_fine and #found or most_written()
  total_inflated = total_inflated + made
  let_go(made)
  if found == TOO_LARGE then
    local too_large_for = "the decompressed request is larger than the " .. limit .. " bytes that the endpoint accepts"
    refused(too_large or limit > MAX_INFLATED and TOO_LARGE_HERE or too_large_for, "413")
  end
  return is_fine and found or error(found, 0)
end

-- What that begins with: so many bytes, or all of it. The rest need not be right, nor have come.
local function inflated_begin(text, coding, size)
  local format = format_of(coding)
  local is_fine, found = pcall(function()
    inflate(text, format.past_head(text), size)
  end)
  local begin = (is_fine or found == TOO_LARGE) and sub(OUT:tostring(), 1, size)
  let_go(#OUT)
  return begin or error(found, 0)
end
