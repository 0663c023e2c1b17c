"""The beginning of a stream, as Lua gives it to the filter of Envoy's that reads the model's name."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.xds.lua_scripts import Script

MIB = 1024 * 1024
SCRIPT = Script("triton_reading", "inflate", "decompression", "messages", "compressed_calls")
BEGINNING, NEW_SHARE = SCRIPT.functions("beginning", "new_share")
REFUSED = b"\1\0\0\0\0"


def frame(message: bytes, *, compressed: bool = False) -> bytes:
    data = gzip.compress(message, mtime=0) if compressed else message
    return bytes([compressed]) + len(data).to_bytes(4, "big") + data


class Filter:
    """Envoy's, as far as its ways matter here: of the chunk that the first message ends in, whole messages go on, which
    must be plain; what is left of that chunk is lost. Every other chunk goes on as it is."""

    def __init__(self) -> None:
        self._came = b""
        self.passed: bytes | None = None  # None: the first message has not ended

    def take(self, chunk: bytes) -> None:
        if self.passed is not None:
            self.passed += chunk
            return
        self._came += chunk
        whole, rest = b"", self._came
        while len(rest) >= 5 and len(rest) >= 5 + (length := int.from_bytes(rest[1:5], "big")):
            assert rest[0] == 0, "a compressed message"
            whole, rest = whole + rest[: 5 + length], rest[5 + length :]
        if whole:
            self.passed = whole


def passed(chunks: Sequence[bytes], coding: bytes | None = b"gzip") -> tuple[bytes | None, Any]:
    """What is behind the filter, and the refusal, if there is one."""
    beginning, envoys, is_all = BEGINNING(coding, NEW_SHARE()), Filter(), False
    for chunk in chunks:
        if is_all:
            envoys.take(chunk)
            continue
        part, is_all, refusal = (*beginning(chunk), None)[:3]
        if refusal:
            assert part.endswith(REFUSED)
            return envoys.passed, refusal
        envoys.take(part)
    return envoys.passed, None


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(bounds)]


def messages_of(stream: bytes) -> list[bytes]:
    found = []
    while stream:
        flag, length = stream[0], int.from_bytes(stream[1:5], "big")
        data = stream[5 : 5 + length]
        found.append(gzip.decompress(data) if flag else data)
        stream = stream[5 + length :]
    return found


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(0, 1000), max_size=8),
)
def test_wherever_it_is_cut_every_message_goes_on(messages: list[tuple[bytes, bool]], places: list[int]) -> None:
    stream = b"".join(frame(message, compressed=compressed) for message, compressed in messages)

    found, refusal = passed([*cut(stream, places), b""])

    assert refusal is None
    assert messages_of(found or b"") == [message for message, _ in messages]


def test_plain_messages_go_on_as_they_came_however_large_the_first_one_is() -> None:
    stream = frame(bytes(6 * MIB)) + frame(b"b" * 100) + frame(b"c")
    for places in ([], [3, 5, 1000], [6 * MIB + 4], [6 * MIB + 20], [100, 6 * MIB + 110]):
        assert passed([*cut(stream, places), b""], None) == (stream, None)


def test_messages_that_never_end_with_a_chunk_are_held_within_a_bound() -> None:
    stream = frame(b"a") + frame(bytes(MIB)) * 9
    _, refusal = passed([stream[start : start + MIB] for start in range(0, len(stream), MIB)], None)
    assert (refusal[b"status"], b"8388608 bytes" in refusal[b"text"]) == (b"413", True)


def test_behind_the_first_messages_chunk_compressed_ones_go_on_as_they_came() -> None:
    later = frame(b"b" * 100, compressed=True)
    found, _ = passed([frame(b"a", compressed=True), later, later])
    assert found == frame(b"a") + later * 2


@pytest.mark.parametrize(
    "begin", [b"", frame(b"a"), frame(b"a", compressed=True)], ids=["first", "plain", "compressed"]
)
def test_what_is_broken_or_too_large_ends_the_stream(begin: bytes) -> None:
    broken = b"\1" + (20).to_bytes(4, "big") + gzip.compress(b"a" * 100)[:20]
    large = frame(bytes(5 * MIB), compressed=True)
    for flawed, status in ((broken, b"400"), (large, b"413")):
        _, refusal = passed([begin + flawed])
        assert refusal[b"status"] == status


def test_a_first_message_that_only_promises_to_be_too_large_is_not_waited_for() -> None:
    _, refusal = passed([b"\1" + (5 * MIB).to_bytes(4, "big")])
    assert (refusal[b"status"], b"1048576 bytes" in refusal[b"text"]) == (b"413", True)


@pytest.mark.parametrize(("coding", "status"), [(None, b"400"), (b"snappy", b"415")])
def test_compressed_as_nobody_said_or_knows_it_is_refused(coding: bytes | None, status: bytes) -> None:
    _, refusal = passed([frame(b"a", compressed=True)], coding)
    assert refusal[b"status"] == status
