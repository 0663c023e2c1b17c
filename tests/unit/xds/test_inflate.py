"""What Lua in Envoy decompresses: exactly what zlib does, and within the bounds that it is given."""

from __future__ import annotations

import gzip
import zlib
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.compression import decompress
from serving.errors import BadRequest, TooLarge, UnsupportedEncoding
from tests.unit.xds.lua_scripts import Refused, Script

MIB = 1024 * 1024
SCRIPT = Script("triton_reading", "inflate", "decompression")
INFLATED, INFLATED_BEGIN = SCRIPT.functions("inflated", "inflated_begin")
WINDOW_BITS = {b"gzip": 31, b"deflate": 15}

STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED)
FLUSHES = (zlib.Z_NO_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_BLOCK)

codings = st.sampled_from(sorted(WINDOW_BITS))
pieces = st.one_of(
    st.binary(max_size=300),
    st.text("etaoin shrdlu\n", max_size=300).map(str.encode),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=40), st.integers(1, 2000)),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """What was compressed, the coding, and what came of it by any way that zlib has."""
    coding = draw(codings)
    window = draw(st.sampled_from([0, 0, -1, -6]))
    stream = zlib.compressobj(
        draw(st.integers(0, 9)),
        zlib.DEFLATED,
        WINDOW_BITS[coding] + window,
        draw(st.integers(1, 9)),
        draw(st.sampled_from(STRATEGIES)),
    )
    plain, packed = b"", b""
    for piece, flush in draw(st.lists(st.tuples(pieces, st.sampled_from(FLUSHES)), max_size=4)):
        plain += piece
        packed += stream.compress(piece) + stream.flush(flush)
    return plain, coding, packed + stream.flush()


@st.composite
def flawed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A coding, and a stream that something has happened to: it may be right nevertheless."""
    _, coding, packed = draw(streams())
    at = draw(st.integers(0, len(packed) - 1))
    damage = draw(st.sampled_from(["flip", "cut", "append", "replace"]))
    if damage == "flip":
        packed = packed[:at] + bytes([packed[at] ^ (1 << draw(st.integers(0, 7)))]) + packed[at + 1 :]
    elif damage == "cut":
        packed = packed[:at]
    elif damage == "append":
        packed += draw(st.binary(min_size=1, max_size=20))
    else:
        packed = packed[:at] + draw(st.binary(max_size=20)) + packed[at + draw(st.integers(0, 20)) :]
    return coding, packed


def by_lua(packed: bytes, coding: bytes, limit: int) -> bytes | int:
    """What comes out, or the status of the refusal."""
    try:
        return INFLATED(packed, coding, limit)
    except Refused as refusal:
        return refusal.status


def by_replicas(packed: bytes, coding: bytes, limit: int) -> bytes | int:
    try:
        return bytes(decompress(packed, coding, limit))
    except TooLarge:
        return 413
    except UnsupportedEncoding:
        return 415
    except BadRequest:
        return 400


def fate(found: bytes | int) -> bytes | int | None:
    """Of what is both too large and broken, either may be noticed first."""
    return None if found in (400, 413) else found


def as_zlib(raw: bytes, plain: bytes = b"") -> bytes:
    """A stream of zlib's whose data are these."""
    return b"\x78\x9c" + raw + zlib.adler32(plain).to_bytes(4, "big")


@given(streams())
def test_what_was_compressed_in_any_way_comes_back(stream: tuple[bytes, bytes, bytes]) -> None:
    plain, coding, packed = stream
    assert INFLATED(packed, coding, len(plain)) == plain


@given(flawed(), st.sampled_from([100, 1000, MIB]))
def test_what_is_flawed_has_the_same_fate_as_with_replicas(flaw: tuple[bytes, bytes], limit: int) -> None:
    coding, packed = flaw
    assert fate(by_lua(packed, coding, limit)) == fate(by_replicas(packed, coding, limit))


@given(codings, st.binary(max_size=300))
def test_what_never_was_a_stream_has_the_same_fate_as_with_replicas(coding: bytes, raw: bytes) -> None:
    head = b"\x78\x9c" if coding == b"deflate" else gzip.compress(b"")[:10]
    for packed in (raw, head + raw):
        assert fate(by_lua(packed, coding, MIB)) == fate(by_replicas(packed, coding, MIB))


@pytest.mark.parametrize(("level", "strategy"), list(product((0, 1, 6, 9), STRATEGIES)))
def test_every_part_of_a_stream_is_refused(level: int, strategy: int) -> None:
    plain = b"".join(b"%d etaoin shrdlu %d\n" % (number, number * number) for number in range(20))
    for coding, bits in WINDOW_BITS.items():
        stream = zlib.compressobj(level, zlib.DEFLATED, bits, 8, strategy)
        packed = stream.compress(plain) + stream.flush()
        for length in range(len(packed)):
            assert by_lua(packed[:length], coding, MIB) == 400, length


@pytest.mark.parametrize("coding", WINDOW_BITS)
def test_every_bit_that_matters_to_zlib_matters(coding: bytes) -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, WINDOW_BITS[coding])
    packed = stream.compress(b"a message, a message, a message") + stream.flush()
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert by_lua(bytes(flipped), coding, MIB) == by_replicas(bytes(flipped), coding, MIB), bit


# What tests of zlib itself are made of (test/infcover.c), each for one thing that can be wrong.
INVALID = {
    "00 00 00 00 00": "does not agree with its complement",
    "06": "a block of no kind",
    "fc 00 00": "a block with too many symbols",
    "04 00 fe ff": "a code has too few symbols",
    "04 00 24 49 00": "a repeated length before the first one",
    "04 00 24 e9 ff ff": "more lengths than symbols",
    "04 00 24 e9 ff 6d": "a block without an end",
    "04 80 49 92 24 49 92 24 71 ff ff 93 11 00": "a code has too",
    "04 80 49 92 24 49 92 24 0f b4 ff ff c3 84": "a code has too",
    "04 c0 81 08 00 00 00 00 20 7f eb 0b 00 00": "a code that no symbol has",
    "02 7e ff ff": "a distance that there is not",
    "0c c0 81 00 00 00 00 00 90 ff 6b 04 00": "a distance from before the beginning",
}
VALID = (
    "03 00",
    "01 01 00 fe ff 00",
    "05 c0 21 0d 00 00 00 80 b0 fe 6d 2f 91 6c",
    "05 e0 81 91 24 cb b2 2c 49 e2 0f 2e 8b 9a 47 56 9f fb fe ec d2 ff 1f",
    "ed c0 01 01 00 00 00 40 20 ff 57 1b 42 2c 4f",
    "ed cf c1 b1 2c 47 10 c4 30 fa 6f 35 1d 01 82 59 3d fb be 2e 2a fc 0f 0c",
)


@pytest.mark.parametrize("raw", INVALID)
def test_what_is_wrong_is_said(raw: str) -> None:
    with pytest.raises(Refused, match=INVALID[raw]) as refused:
        INFLATED(as_zlib(bytes.fromhex(raw) + bytes(10)), b"deflate", MIB)
    assert refused.value.status == 400


@pytest.mark.parametrize("raw", VALID)
def test_what_looks_strange_can_be_right(raw: str) -> None:
    plain = zlib.decompress(bytes.fromhex(raw), -15)
    assert INFLATED(as_zlib(bytes.fromhex(raw), plain), b"deflate", MIB) == plain


@pytest.mark.parametrize("coding", WINDOW_BITS)
@pytest.mark.parametrize("size", [0, 1, 257, 258, 259, 1024, 65_535, 65_536, 300_000])
def test_a_limit_is_kept_to_the_byte(coding: bytes, size: int) -> None:
    for level in (0, 1, 9):
        stream = zlib.compressobj(level, zlib.DEFLATED, WINDOW_BITS[coding])
        packed = stream.compress(bytes(size)) + stream.flush()
        assert INFLATED(packed, coding, size) == bytes(size)
        if size > 0:
            with pytest.raises(Refused, match=f"larger than the {size - 1} bytes that the endpoint accepts") as refused:
                INFLATED(packed, coding, size - 1)
            assert refused.value.status == 413


def test_beyond_what_takes_a_sane_time_it_says_so_whatever_an_endpoint_accepts() -> None:
    at_most = gzip.compress(bytes(16 * MIB), 1)
    assert len(INFLATED(at_most, b"gzip", 64 * MIB)) == 16 * MIB
    with pytest.raises(Refused, match=f"a compressed request may have {16 * MIB} bytes") as refused:
        INFLATED(gzip.compress(bytes(16 * MIB + 1), 1), b"gzip", 64 * MIB)
    assert refused.value.status == 413


def test_bombs_leave_nothing_behind() -> None:
    bomb = gzip.compress(bytes(200 * MIB), 9)
    before = SCRIPT.kilobytes()
    for _ in range(100):
        with pytest.raises(Refused, match="larger"):
            INFLATED(bomb, b"gzip", 4 * MIB)
    assert SCRIPT.kilobytes() < before + 1100  # what it keeps, to begin with


EMPTY_STORED = bytes.fromhex("000000ffff")
EMPTY_FIXED = sum(2 << 10 * index for index in range(4)).to_bytes(5, "little")  # four, of ten bits each


@pytest.mark.parametrize(("blocks", "num_blocks"), [(EMPTY_STORED, 1), (EMPTY_FIXED, 4)], ids=["stored", "fixed"])
def test_blocks_are_counted_as_well_since_they_may_be_empty(blocks: bytes, num_blocks: int) -> None:
    last = bytes.fromhex("0300")
    assert INFLATED(as_zlib(blocks * (1000 // num_blocks) + last), b"deflate", 1000) == b""
    with pytest.raises(Refused, match="too many parts") as refused:
        INFLATED(as_zlib(blocks * 1_000_000 + last), b"deflate", 1000)
    assert refused.value.status == 400


def test_what_follows_is_refused_and_so_are_further_members() -> None:
    for coding, packed in ((b"gzip", gzip.compress(b"a")), (b"deflate", zlib.compress(b"a"))):
        for more in (b"\0", packed):
            with pytest.raises(Refused, match=f"followed by {len(more)} more bytes"):
                INFLATED(packed + more, coding, MIB)


def test_gzips_head_may_say_more() -> None:
    plain = b"a message"
    bare = gzip.compress(plain)
    head, rest = bytearray(bare[:10]), bare[10:]
    head[3] = 4 | 8 | 16 | 2
    more = bytes(head) + b"\x03\x00abc" + b"name\0" + b"comment\0"
    checksum = (zlib.crc32(more) & 0xFFFF).to_bytes(2, "little")

    assert zlib.decompress(more + checksum + rest, 31) == plain
    assert INFLATED(more + checksum + rest, b"gzip", MIB) == plain
    with pytest.raises(Refused, match="checksum of the head"):
        INFLATED(more + bytes(2) + rest, b"gzip", MIB)
    for length in range(len(more)):
        with pytest.raises(Refused, match="cut off"):
            INFLATED(more[:length], b"gzip", MIB)


@pytest.mark.parametrize("coding", [b"x-gzip", b"GZip", b" gzip "])
def test_a_coding_has_several_spellings(coding: bytes) -> None:
    assert INFLATED(gzip.compress(b"a"), coding, 1) == b"a"


@pytest.mark.parametrize("coding", [b"br", b"", b"gzip, deflate", b"snappy"])
def test_other_codings_are_not_supported(coding: bytes) -> None:
    with pytest.raises(Refused, match="use gzip or deflate") as refused:
        INFLATED(gzip.compress(b"a"), coding, 1)
    assert refused.value.status == 415


@given(streams(), st.integers(0, 5000))
def test_a_beginning_can_be_had_without_the_rest(stream: tuple[bytes, bytes, bytes], size: int) -> None:
    plain, coding, packed = stream
    assert INFLATED_BEGIN(packed, coding, size) == plain[:size]


def test_the_rest_need_not_be_right_nor_have_come() -> None:
    packed = zlib.compress(bytes(range(256)) * 10_000)
    for rest in (packed[:8000], packed[:8000] + b"?" * 8000):
        assert INFLATED_BEGIN(rest, b"deflate", 1000) == (bytes(range(256)) * 4)[:1000]
    with pytest.raises(Refused, match="cut off"):
        INFLATED_BEGIN(packed[:20], b"deflate", 1000)


def test_nothing_large_is_kept_of_a_message_that_was_right() -> None:
    before = SCRIPT.kilobytes()
    assert INFLATED(gzip.compress(bytes(8 * MIB)), b"gzip", 16 * MIB) == bytes(8 * MIB)
    assert SCRIPT.kilobytes() < before + 1100
