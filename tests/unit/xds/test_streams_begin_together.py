"""What the beginnings of many streams hold together, in the memory of one Lua machine."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from tests.unit.xds.lua_scripts import Script

MIB = 1024 * 1024
BUDGET_MIB = 32
REFUSED = b"\1\0\0\0\0"
FINE = b"\0\0\0\0\1a"


class Streams:
    """As of one worker, from its start."""

    def __init__(self) -> None:
        self._script = Script("triton_reading", "inflate", "decompression", "messages", "compressed_calls")
        self._beginning, self._new_share, self._hold = self._script.functions("beginning", "new_share", "hold")
        self._before = self._script.kilobytes()

    def begin(self) -> tuple[Any, Any]:
        share = self._new_share()
        return self._beginning(b"gzip", share), share

    def end(self, share: Any) -> None:
        self._hold(share, 0)

    def mebibytes(self) -> float:
        return (self._script.kilobytes() - self._before) / 1024


def held_plain(number: int) -> bytes:
    """A message that has come, and of the next one a megabyte. No two are the same text for Lua."""
    return FINE + b"\0" + (2 * MIB).to_bytes(4, "big") + number.to_bytes(4, "big") + bytes(MIB - 4)


def held_compressed(number: int) -> bytes:
    """Few bytes that grow to a megabyte, and one of the next message."""
    data = gzip.compress(number.to_bytes(4, "big") + bytes(MIB - 100))
    return b"\1" + len(data).to_bytes(4, "big") + data + b"\0"


def begun(streams: Streams, first: Any, count: int) -> tuple[list[tuple[Any, Any]], list[bytes]]:
    """Those that are held, and why the others were refused."""
    held, refusals = [], []
    for number in range(count):
        beginning, share = streams.begin()
        text, is_all, *refusal = beginning(first(number))
        if refusal:
            assert is_all
            assert text.endswith(REFUSED)
            assert refusal[0][b"status"] == b"429"
            refusals.append(refusal[0][b"text"])
        else:
            assert (text, is_all) == (b"", False)
            held.append((beginning, share))
    return held, refusals


@pytest.mark.parametrize("first", [held_plain, held_compressed])
def test_what_is_beyond_the_budget_is_refused_at_once(first: Any) -> None:
    streams = Streams()
    held, refusals = begun(streams, first, 100)
    assert BUDGET_MIB - 2 <= len(held) <= BUDGET_MIB + 1
    assert refusals == [b"too many streams are beginning: try again"] * (100 - len(held))
    assert streams.mebibytes() < BUDGET_MIB + 3


def test_those_that_need_not_wait_are_let_through_meanwhile() -> None:
    streams = Streams()
    held, _ = begun(streams, held_compressed, 40)
    beginning, _ = streams.begin()
    assert beginning(FINE) == (FINE, True)
    assert len(held) < 40


def test_streams_that_are_broken_off_give_back_what_they_held() -> None:
    streams = Streams()
    held, refusals = begun(streams, held_compressed, 40)
    assert refusals
    many = len(held)
    del held
    again, _ = begun(streams, held_compressed, 40)
    assert len(again) == many
    assert streams.mebibytes() < BUDGET_MIB + 3


@pytest.mark.parametrize("how", ["goes on", "is refused", "ends"])
def test_so_do_those_that_have_begun(how: str) -> None:
    streams = Streams()
    held, _ = begun(streams, held_compressed, 40)
    for beginning, share in held:  # which stay where they are
        if how == "goes on":
            text, is_all, *refusal = beginning(b"\0\0\0\0")
            assert (len(text), is_all, refusal) == (5 + MIB - 96 + 5, True, [])
        elif how == "is refused":
            _, _, refusal = beginning(b"\0\0\0\0" + b"\1\0\0\0\1?")
            assert refusal[b"status"] == b"400"
        else:
            streams.end(share)
    again, _ = begun(streams, held_compressed, 40)
    assert len(again) == len(held)


def test_many_small_pieces_count_as_what_they_take() -> None:
    streams = Streams()
    held, _ = begun(streams, held_plain, BUDGET_MIB - 1)
    beginning, _ = streams.begin()
    assert beginning(FINE + b"\0" + MIB.to_bytes(4, "big")) == (b"", False)
    taken = 0
    while not beginning(b"x")[1]:
        taken += 1
    assert taken < 2 * MIB / 64
    assert len(held) == BUDGET_MIB - 1
