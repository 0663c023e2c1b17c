-- Inflate: what was compressed as RFC 1951 has it (a paragraph, §, is always one of it). Others verify what comes out.
--
-- It runs within a worker of Envoy, over what strangers send. So
-- - output is bounded: the first byte over the limit ends it
-- - work is bounded: every symbol makes a byte or more, blocks are counted, and nothing else repeats
-- - pointers are not checked by LuaJIT. There are two, and a rule for each: input is read below IN.size alone, and output
--   is written only where `grown` has made room, which every turn of a loop sees to first. Indices of all tables are
--   masked, or compared, before they are used

local ffi = require("ffi")
local new_buffer = require("string.buffer").new
local band, bor, bxor, bnot, lshift, rshift = bit.band, bit.bor, bit.bxor, bit.bnot, bit.lshift, bit.rshift
local copy, fill, min, max = ffi.copy, ffi.fill, math.min, math.max

local LONGEST_CODE = 15
local LONGEST_MATCH = 258
-- What there may be of blocks: each can take as long as so many bytes. zlib makes one of 16,000 symbols.
local BYTES_OF_BLOCK = 1024
local FREE_BLOCKS = 1024

local CUT_OFF = "the compressed data are cut off"
local BROKEN = "the compressed data are broken: "

-- A constant, by which those who have asked for a part know that they have it.
local TOO_LARGE = { status = "413", text = "the decompressed message is too large" }

-- Input, and what was taken from it and not yet used: `bits` bits of `hold`, the next one lowest (§3.1.1).
local IN = { text = "", bytes = ffi.cast("const uint8_t *", ""), size = 0, at = 0, hold = 0, bits = 0 }

local OUT = new_buffer()

-- The two bytes at `at`; zeros behind the end. How much of those was used is seen when all is done.
local function pair(bytes, size, at)
  if at + 1 < size then
    return bytes[at] + 256 * bytes[at + 1]
  elseif at > size + 8 then
    refused(CUT_OFF)
  end
  return at < size and bytes[at] or 0
end

-- `count` bits, 16 at the most, as a number (§3.1.1). In loops that have to be fast, this is written out.
local function taken(count)
  if IN.bits < count then
    IN.hold = bor(IN.hold, lshift(pair(IN.bytes, IN.size, IN.at), IN.bits))
    IN.at, IN.bits = IN.at + 2, IN.bits + 16
  end
  local value = band(IN.hold, lshift(1, count) - 1)
  IN.hold, IN.bits = rshift(IN.hold, count), IN.bits - count
  return value
end

-- Where the byte begins that was not begun; bits before it are lost (§3.2.3).
local function at_byte()
  local at = IN.at - rshift(IN.bits, 3)
  IN.at, IN.hold, IN.bits = at, 0, 0
  if at > IN.size then
    refused(CUT_OFF)
  end
  return at
end

-- Room behind the `size` bytes that there are: where all of it begins, and up to which size a symbol more has its place.
local function grown(size, limit)
  OUT:commit(size - #OUT)
  if size > limit then
    error(TOO_LARGE, 0)
  end
  local _, room = OUT:reserve(min(max(size, 4 * IN.size, 1024), limit - size) + LONGEST_MATCH + 1)
  return OUT:ref(), min(size + room - LONGEST_MATCH - 1, limit)
end

-- Codes (§3.2.2). Most are shorter than 11 bits and found at once: `fast` has, for what the next 10 bits are, 16 times the
-- symbol and the length of its code; 0 for the longer ones. Those are found by their order: `count` has how many there
-- are of each length, `symbols` the symbols by their codes.

local FAST_BITS = 10
local FAST_SIZE = 2 ^ FAST_BITS
local FAST_MASK = FAST_SIZE - 1

local function new_code(num_symbols)
  return {
    fast = ffi.new("uint16_t[?]", FAST_SIZE),
    count = ffi.new("uint16_t[?]", LONGEST_CODE + 1),
    symbols = ffi.new("uint16_t[?]", num_symbols),
  }
end

local NEXT_CODE = ffi.new("int32_t[?]", LONGEST_CODE + 1)
local NEXT_PLACE = ffi.new("int32_t[?]", LONGEST_CODE + 1)

-- Codes stand in the data with their highest bit first, everything else with its lowest (§3.1.1).
local function reversed(code, length)
  local found = 0
  for _ = 1, length do
    found = bor(lshift(found, 1), band(code, 1))
    code = rshift(code, 1)
  end
  return found
end

-- Makes `code` of the lengths at `from`. All possible codes are to be used; but where there is one symbol alone, its code
-- has one bit, of which 1 then means nothing, and there may be none (§3.2.7), which `may_be_few` allows.
local function set_code(code, lengths, from, num_symbols, may_be_few)
  local fast, count, symbols = code.fast, code.count, code.symbols
  fill(count, 2 * (LONGEST_CODE + 1))
  for symbol = 0, num_symbols - 1 do
    local length = lengths[from + symbol]
    count[length] = count[length] + 1
  end
  local num_used = num_symbols - count[0]
  count[0] = 0
  local left, next_code, place = 1, 0, 0
  for length = 1, LONGEST_CODE do
    left = 2 * left - count[length]
    if left < 0 then
      refused(BROKEN .. "a code has too many symbols")
    end
    next_code = 2 * (next_code + count[length - 1])
    NEXT_CODE[length], NEXT_PLACE[length] = next_code, place
    place = place + count[length]
  end
  if left > 0 and not (may_be_few and (num_used == 0 or (num_used == 1 and count[1] == 1))) then
    refused(BROKEN .. "a code has too few symbols")
  end
  fill(fast, 2 * FAST_SIZE)
  for symbol = 0, num_symbols - 1 do
    local length = lengths[from + symbol]
    if length > 0 then
      symbols[NEXT_PLACE[length]] = symbol
      NEXT_PLACE[length] = NEXT_PLACE[length] + 1
      if length <= FAST_BITS then
        for index = reversed(NEXT_CODE[length], length), FAST_MASK, lshift(1, length) do
          fast[index] = 16 * symbol + length
        end
      end
      NEXT_CODE[length] = NEXT_CODE[length] + 1
    end
  end
end

-- What `fast` would have of the code that the bits begin with, if it had room for it.
local function by_order(code, bits)
  local count, symbols = code.count, code.symbols
  local found, first, place = 0, 0, 0
  for length = 1, LONGEST_CODE do
    found = bor(found, band(bits, 1))
    bits = rshift(bits, 1)
    local here = count[length]
    if found - first < here then
      return 16 * symbols[place + found - first] + length
    end
    place, first, found = place + here, 2 * (first + here), 2 * found
  end
  refused(BROKEN .. "a code that no symbol has")
end

local function symbol_of(code)
  if IN.bits < LONGEST_CODE then
    IN.hold = bor(IN.hold, lshift(pair(IN.bytes, IN.size, IN.at), IN.bits))
    IN.at, IN.bits = IN.at + 2, IN.bits + 16
  end
  local entry = code.fast[band(IN.hold, FAST_MASK)]
  if entry == 0 then
    entry = by_order(code, IN.hold)
  end
  local length = band(entry, 15)
  IN.hold, IN.bits = rshift(IN.hold, length), IN.bits - length
  return rshift(entry, 4)
end

-- Matches (§3.2.5): symbols from 257 on are lengths, and a distance follows; of both, a table has where they begin, and how
-- many bits more there are to add. The distances 30 and 31 and the lengths 286 and 287 do not occur.

local LAST_LENGTH, LAST_DISTANCE = 285, 29

-- `per_size`: how many have the same number of extra bits; there are twice as many without any.
local function steps(num, per_size, first)
  local starts, extra = ffi.new("int32_t[?]", num), ffi.new("int32_t[?]", num)
  for index = 0, num - 1 do
    extra[index] = max(0, floor(index / per_size) - 1)
    starts[index] = first
    first = first + 2 ^ extra[index]
  end
  return starts, extra
end

local LENGTHS, LENGTH_BITS = steps(29, 4, 3)
LENGTHS[28], LENGTH_BITS[28] = LONGEST_MATCH, 0
local DISTANCES, DISTANCE_BITS = steps(30, 2, 1)

-- `length` bytes more at `to[size]`, the same that stand `distance` before. Where both overlap, they repeat.
local function repeat_bytes(to, size, length, distance)
  local from = to + (size - distance)
  to = to + size
  while length > distance do
    copy(to, from, distance)
    to, length, distance = to + distance, length - distance, 2 * distance
  end
  copy(to, from, length)
end

-- The symbols of a block. Takes and returns how many bytes there are.
local function inflate_symbols(literals, distances, size, limit)
  local bytes, last, at, hold, bits = IN.bytes, IN.size, IN.at, IN.hold, IN.bits
  local fast, far = literals.fast, distances.fast
  local to, room = grown(size, limit)
  while true do
    if size > room then
      if 8 * at - bits > 8 * last then
        refused(CUT_OFF)
      end
      to, room = grown(size, limit)
    end
    if bits < 16 then
      hold, at, bits = bor(hold, lshift(pair(bytes, last, at), bits)), at + 2, bits + 16
    end
    local entry = fast[band(hold, FAST_MASK)]
    if entry == 0 then
      entry = by_order(literals, hold)
    end
    local symbol, used = rshift(entry, 4), band(entry, 15)
    hold, bits = rshift(hold, used), bits - used
    if symbol < 256 then
      to[size] = symbol
      size = size + 1
    elseif symbol == 256 then
      break
    else
      if symbol > LAST_LENGTH then
        refused(BROKEN .. "a length that there is not")
      end
      if bits < 16 then
        hold, at, bits = bor(hold, lshift(pair(bytes, last, at), bits)), at + 2, bits + 16
      end
      used = LENGTH_BITS[symbol - 257]
      local length = LENGTHS[symbol - 257] + band(hold, lshift(1, used) - 1)
      hold, bits = rshift(hold, used), bits - used
      if bits < 16 then
        hold, at, bits = bor(hold, lshift(pair(bytes, last, at), bits)), at + 2, bits + 16
      end
      entry = far[band(hold, FAST_MASK)]
      if entry == 0 then
        entry = by_order(distances, hold)
      end
      symbol, used = rshift(entry, 4), band(entry, 15)
      hold, bits = rshift(hold, used), bits - used
      if symbol > LAST_DISTANCE then
        refused(BROKEN .. "a distance that there is not")
      end
      if bits < 16 then
        hold, at, bits = bor(hold, lshift(pair(bytes, last, at), bits)), at + 2, bits + 16
      end
      used = DISTANCE_BITS[symbol]
      local distance = DISTANCES[symbol] + band(hold, lshift(1, used) - 1)
      hold, bits = rshift(hold, used), bits - used
      if distance > size then
        refused(BROKEN .. "a distance from before the beginning")
      end
      repeat_bytes(to, size, length, distance)
      size = size + length
    end
  end
  IN.at, IN.hold, IN.bits = at, hold, bits
  return size
end

-- Bytes as they are (§3.2.4).
local function inflate_stored(size, limit)
  local at, bytes = at_byte(), IN.bytes
  if at + 4 > IN.size then
    refused(CUT_OFF)
  end
  local length = bytes[at] + 256 * bytes[at + 1]
  if length + bytes[at + 2] + 256 * bytes[at + 3] ~= 65535 then -- the second one is the first one's complement
    refused(BROKEN .. "a length that does not agree with its complement")
  end
  at = at + 4
  local stop = at + length
  while at < min(stop, IN.size) do
    local to, room = grown(size, limit)
    local part = min(stop - at, IN.size - at, room + 1 - size)
    copy(to + size, bytes + at, part)
    at, size = at + part, size + part
  end
  if at < stop then
    grown(size, limit)
    refused(CUT_OFF)
  end
  IN.at = at
  return size
end

local FIXED -- §3.2.6: made when the first one needs it

local function fixed_codes()
  if not FIXED then
    FIXED = { literals = new_code(288), distances = new_code(32) }
    local lengths = ffi.new("uint8_t[?]", 288)
    fill(lengths, 144, 8)
    fill(lengths + 144, 112, 9)
    fill(lengths + 256, 24, 7)
    fill(lengths + 280, 8, 8)
    set_code(FIXED.literals, lengths, 0, 288)
    fill(lengths, 32, 5)
    set_code(FIXED.distances, lengths, 0, 32)
  end
  return FIXED.literals, FIXED.distances
end

-- A block's own codes (§3.2.7): their lengths are themselves compressed, by a code that comes first.

local MAX_LITERALS, MAX_DISTANCES = 286, 30
local ORDER = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 }
local OF_LENGTHS, LITERALS, DISTANCES_CODE = new_code(19), new_code(MAX_LITERALS), new_code(MAX_DISTANCES)
local CODE_LENGTHS = ffi.new("uint8_t[?]", MAX_LITERALS + MAX_DISTANCES)

local function own_codes()
  local num_literals, num_distances, num_lengths = taken(5) + 257, taken(5) + 1, taken(4) + 4
  if num_literals > MAX_LITERALS or num_distances > MAX_DISTANCES then
    refused(BROKEN .. "a block with too many symbols")
  end
  fill(CODE_LENGTHS, #ORDER)
  for index = 1, num_lengths do
    CODE_LENGTHS[ORDER[index]] = taken(3)
  end
  set_code(OF_LENGTHS, CODE_LENGTHS, 0, #ORDER)
  local index, stop = 0, num_literals + num_distances
  while index < stop do
    local symbol = symbol_of(OF_LENGTHS)
    if symbol < 16 then
      CODE_LENGTHS[index] = symbol
      index = index + 1
    else
      local length, times = 0, 0
      if symbol == 16 then
        if index == 0 then
          refused(BROKEN .. "a repeated length before the first one")
        end
        length, times = CODE_LENGTHS[index - 1], 3 + taken(2)
      elseif symbol == 17 then
        times = 3 + taken(3)
      else
        times = 11 + taken(7)
      end
      if index + times > stop then
        refused(BROKEN .. "more lengths than symbols")
      end
      fill(CODE_LENGTHS + index, times, length)
      index = index + times
    end
  end
  if CODE_LENGTHS[256] == 0 then
    refused(BROKEN .. "a block without an end")
  end
  set_code(LITERALS, CODE_LENGTHS, 0, num_literals, true)
  set_code(DISTANCES_CODE, CODE_LENGTHS, num_literals, num_distances, true)
  return LITERALS, DISTANCES_CODE
end

-- Into OUT: what the data at `from` of the text hold (from 1, as everywhere in Lua). Returns how many bytes, and where
-- what follows begins. Raises a refusal; TOO_LARGE when there is more than `limit`, and then OUT has at least so much.
local function inflate(text, from, limit)
  IN.text, IN.bytes, IN.size = text, ffi.cast("const uint8_t *", text), #text -- which must not be collected meanwhile
  IN.at, IN.hold, IN.bits = from - 1, 0, 0
  OUT:reset()
  local size, blocks = 0, FREE_BLOCKS + limit / BYTES_OF_BLOCK
  repeat
    local is_last, kind = taken(1), taken(2) -- §3.2.3
    if kind == 0 then
      size = inflate_stored(size, limit)
    elseif kind == 3 then
      refused(BROKEN .. "a block of no kind")
    else
      local literals, distances = (kind == 1 and fixed_codes or own_codes)()
      size = inflate_symbols(literals, distances, size, limit)
    end
    blocks = blocks - 1
    if blocks < 0 then
      refused("the compressed data are in too many parts")
    end
  until is_last == 1
  grown(size, limit)
  return size, at_byte() + 1
end
