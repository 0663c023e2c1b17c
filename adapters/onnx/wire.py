"""Protocol Buffers' wire format, read where it lies: fields with their places, nothing built, nothing copied.

https://protobuf.dev/programming-guides/encoding/. A parser that builds objects needs several times the file in memory,
and has had its holes; this one skips what it is not asked for, and cannot overrun.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Buffer = bytes | mmap.mmap

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Malformed(Exception):
    """Not a message. The text says what is wrong, and at which byte."""


class Wire:
    """One message in a buffer, and those inside it. `max_fields` bounds the work of all reading together."""

    __slots__ = ("_buffer", "_left")

    def __init__(self, buffer: Buffer, max_fields: int) -> None:
        self._buffer = buffer
        self._left = max_fields

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, wire type, a, b) of each: a varint and 0, or else its first byte and the one after its last.

        Raises `Malformed`, also when there are more fields than may be read.
        """
        buffer, at = self._buffer, start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Malformed("has more fields than any model needs")
            tag = buffer[at]
            if tag < 0x80:
                at += 1
            else:
                tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            # Some parsers cut longer ones to 32 bits, and then see another field.
            if number == 0 or tag > 0xFFFF_FFFF:
                raise Malformed(f"has no field number at byte {at}")
            if wire == BYTES:
                length, at = self.varint(at, end)
                if length > end - at:
                    raise Malformed(f"ends inside a field at byte {at}")
                yield number, wire, at, at + length
                at += length
            elif wire == VARINT:
                value, at = self.varint(at, end)
                yield number, wire, value, 0
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
                if length > end - at:
                    raise Malformed(f"ends inside a number at byte {at}")
                yield number, wire, at, at + length
                at += length
            else:
                raise Malformed(f"has wire type {wire} at byte {at}")

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, and the byte after it."""
        value = shift = 0
        while at < end:
            byte = self._buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
            if shift > 63:
                raise Malformed(f"has a number of more than 64 bits at byte {at}")
        raise Malformed(f"ends inside a number at byte {at}")

    def varints(self, start: int, end: int) -> list[int]:
        """The numbers of a packed field."""
        values = []
        while start < end:
            value, start = self.varint(start, end)
            values.append(value)
        return values

    def text(self, start: int, end: int, limit: int = 4096) -> str:
        """Raises `Malformed` for what is not UTF-8, or longer than `limit` bytes."""
        if end - start > limit:
            raise Malformed(f"has a name of {end - start} bytes")
        try:
            return self._buffer[start:end].decode()
        except UnicodeDecodeError:
            raise Malformed(f"has a name that is not UTF-8 at byte {start}") from None


def signed(value: int) -> int:
    """An int64 as it was meant."""
    return value - 2**64 if value >= 2**63 else value
