"""Tar as a stream, without files: headers are made, and what arrives is taken apart. Pure.

Made: regular files with nothing in their headers that could differ from one day or machine to the next. Read: what is
made here, by Go's archive/tar and by GNU tar. Only regular files and folders; a size beyond 8 GiB may stand in a PAX
record or in GNU's binary form. Links, devices, sparse files and long names are refused: an OCI layout has none.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass

from router.domain.errors import ModelUnavailable

BLOCK = 512
_END = bytes(2 * BLOCK)
_MAX_PAX_BYTES = 64 * 1024
_REGULAR = (b"0", b"\0")
_FOLDER = b"5"
_PAX, _PAX_GLOBAL = b"x", b"g"


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file begins; `size` bytes of it follow."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """Some bytes of the member that began last. `is_last`: there are no more of it."""

    data: bytes
    is_last: bool


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def ending() -> bytes:
    return _END


def total_size(sizes: list[int]) -> int:
    """Of the whole archive."""
    return sum(BLOCK + size + len(padding(size)) for size in sizes) + len(_END)


class TarReader:
    """Fed with bytes as they come. Raises `ModelUnavailable` for what is no plain archive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # content bytes of the present member that are still to come
        self._skip = 0  # padding
        self._pax: int | None = None  # bytes of a PAX record that are still to come
        self._size_beside: int | None = None  # what a PAX record says about the next member
        self._has_ended = False

    def feed(self, data: bytes) -> list[Member | Content]:
        self._buffer += data
        events: list[Member | Content] = []
        while self._step(events):
            pass
        return events

    def close(self) -> None:
        """Nothing more comes."""
        if not self._has_ended:
            raise ModelUnavailable("the archive ends in the middle: copy the file again")

    def _step(self, events: list[Member | Content]) -> bool:
        """Whether something could be done with what is there."""
        if self._has_ended:
            if any(self._buffer):
                raise ModelUnavailable("something follows the end of the archive")
            self._buffer.clear()
            return False
        if self._left:
            if not self._buffer:
                return False
            data = bytes(self._buffer[: self._left])
            del self._buffer[: len(data)]
            self._left -= len(data)
            events.append(Content(data, not self._left))
            return True
        if self._skip:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            return skipped > 0
        if self._pax is not None:
            return self._read_pax()
        return self._read_header(events)

    def _read_header(self, events: list[Member | Content]) -> bool:
        if len(self._buffer) < BLOCK:
            return False
        block = bytes(self._buffer[:BLOCK])
        if not any(block):
            if len(self._buffer) < 2 * BLOCK:
                return False
            if any(self._buffer[BLOCK : 2 * BLOCK]):
                raise ModelUnavailable("the archive has a hole")
            del self._buffer[: 2 * BLOCK]
            self._has_ended = True
            return True
        del self._buffer[:BLOCK]
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError):
            raise ModelUnavailable("this is not a tar archive, or it is damaged") from None
        if info.size < 0:
            raise ModelUnavailable(f"{info.name[:80]!r} has a negative size")
        self._begin(info, events)
        return True

    def _begin(self, info: tarfile.TarInfo, events: list[Member | Content]) -> None:
        kind = info.type
        if kind in (_PAX, _PAX_GLOBAL):
            if info.size > _MAX_PAX_BYTES or self._size_beside is not None:
                raise ModelUnavailable("the archive has a record that is too long, or two of them")
            self._pax = info.size
            return
        size = info.size if self._size_beside is None else self._size_beside
        self._size_beside = None
        if kind == _FOLDER and not size:
            return
        if kind not in _REGULAR:
            raise ModelUnavailable(f"{info.name[:80]!r} is no regular file: links, devices and long names are refused")
        self._left, self._skip = size, -size % BLOCK
        events.append(Member(info.name, size))
        if not size:
            events.append(Content(b"", is_last=True))

    def _read_pax(self) -> bool:
        assert self._pax is not None
        if len(self._buffer) < self._pax:
            return False
        records = bytes(self._buffer[: self._pax])
        del self._buffer[: self._pax]
        self._skip = -self._pax % BLOCK
        self._pax = None
        while records:
            length, _, rest = records.partition(b" ")
            if not length.isdigit() or len(length) > 6 or not len(length) < int(length) <= len(records):
                raise ModelUnavailable("the archive has a record that cannot be read")
            key, _, value = rest[: int(length) - len(length) - 1].rstrip(b"\n").partition(b"=")
            if key == b"size":
                if not value.isdigit() or len(value) > 18:
                    raise ModelUnavailable("the archive has a record that cannot be read")
                self._size_beside = int(value)
            elif key in (b"path", b"linkpath") or key.startswith(b"GNU.sparse"):
                raise ModelUnavailable("links, long names and sparse files are refused")
            records = records[int(length) :]
        return True
