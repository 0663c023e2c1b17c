"""Reading a tar archive that nobody vouches for: member by member, forwards only, in bounded memory. Writes nothing.

Why not `tarfile`: it reads extended headers of any size into memory, recurses for chains of them (a RecursionError),
and had endless loops for negative sizes (CVE-2025-8194). Of the format (POSIX.1-2024 pax, "ustar Interchange Format",
and GNU tar's long names) this reads what layers of images have, and refuses the rest.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 512
CHUNK = 2 * 1024 * 1024
_INPUT = 256 * 1024  # compressed bytes at a time
_MAX_WINDOW_LOG = 25  # 32 MiB of memory; 8 are what every decoder should have (RFC 8878, 3.1.1.1.2)
_MAX_EXTENDED_HEADER = 1024 * 1024  # bytes; they hold names and extended attributes
_MAX_HEADERS = 200_000  # of an image's whole file system

# Deflate reaches 1032:1 with zeros. Weights do not come near: what is denser than this is no model.
_MAX_RATIO = 100
_RATIO_COUNTS_FROM = 64 * 1024 * 1024  # bytes; small things may be all zeros


class Damaged(Exception):
    """Not a tar archive, a truncated or a hostile one. The message says what was found."""


class Kind(Enum):
    FILE = "a file"
    FOLDER = "a folder"
    SYMBOLIC_LINK = "a symbolic link"
    HARD_LINK = "a hard link"
    DEVICE = "a device or a pipe"


@dataclass(frozen=True, slots=True)
class Member:
    """`name` without a leading `./` and trailing slashes; never absolute, never with `..`. `size` in bytes."""

    name: str
    kind: Kind
    size: int


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMBOLIC_LINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.FOLDER,
    b"6": Kind.DEVICE,
}


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Raw(Readable, Protocol):
    def tell(self) -> int:
        """How many bytes were read."""


class Compression(StrEnum):
    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"


class Unpacked:
    """The bytes of a layer, decompressed. Raises `Damaged` when they are too many, or out of proportion."""

    def __init__(self, raw: Raw, compression: Compression, max_bytes: int) -> None:
        self._raw = raw
        self._stream: Readable = raw
        if compression is Compression.GZIP:
            self._stream = _Inflated(raw)
        elif compression is Compression.ZSTD:
            self._stream = _Frames(raw)
        self._max_bytes = max_bytes
        self._count = 0

    def read(self, size: int) -> bytes:
        try:
            read = self._stream.read(size)
        except (zlib.error, zstd.ZstdError, EOFError) as error:
            raise Damaged(f"cannot be decompressed: {error}") from None
        self._count += len(read)
        if self._count > self._max_bytes:
            raise Damaged(f"has more than {self._max_bytes} bytes when decompressed")
        if self._count > _RATIO_COUNTS_FROM and self._count > _MAX_RATIO * self._raw.tell():
            raise Damaged(f"is more than {_MAX_RATIO} times as large when decompressed")
        return read


class _Inflated:
    """A gzip file (RFC 1952): members, one after the other, and zeros behind them. `gzip.GzipFile` reads 8 KiB at a
    time, which takes the interpreter's lock 120,000 times for a gigabyte."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._input = b""
        self._is_between = True  # members
        self._inflate = _member()

    def read(self, size: int) -> bytes:
        while True:
            self._input = self._input or self._raw.read(_INPUT)
            if self._is_between:
                is_over = not self._input
                self._input = self._input.lstrip(b"\0")
                if is_over:
                    return b""
                if not self._input:
                    continue
            is_over = not self._input  # but some of what went in may still have to come out
            data = self._inflate.decompress(self._input, size)
            self._is_between = False
            if self._inflate.eof:
                self._input = self._inflate.unused_data
                self._inflate = _member()
                self._is_between = True
            elif is_over and not data:
                raise EOFError("ends before it should")
            else:
                self._input = self._inflate.unconsumed_tail
            if data:
                return data


def _member() -> zlib._Decompress:
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


class _Frames:
    """A zstd file (RFC 8878): frames, one after the other."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._frame = _frame()
        self._has_begun = False

    def read(self, size: int) -> bytes:
        while True:
            coming = b""
            if self._frame.eof:
                coming, self._frame, self._has_begun = self._frame.unused_data, _frame(), False
            if not coming and self._frame.needs_input:
                coming = self._raw.read(_INPUT)
                if not coming:
                    if self._has_begun:
                        raise EOFError("ends before it should")
                    return b""
            data = self._frame.decompress(coming, size)
            self._has_begun = True
            if data:
                return data


def _frame() -> zstd.ZstdDecompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})


class TarStream:
    """One archive. `for member in …` goes through it once; the content of a member is there until the next one."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = 0  # bytes of the present member's content
        self._padding = 0
        self._headers = 0

    def __iter__(self) -> Iterator[Member]:
        extended: dict[str, str] = {}
        while (header := self._header()) is not None:
            kind = header[156:157]
            size = _number(header[124:136])
            match kind:
                case b"x":
                    extended |= _records(self._extended_header(size))
                case b"g":
                    if (records := _records(self._extended_header(size))).keys() & {"path", "size"}:
                        raise Damaged(f"has a global header with {' and '.join(sorted(records))}")
                case b"L":
                    extended["path"] = _text(self._extended_header(size))
                case b"K":
                    self._extended_header(size)  # where a link leads to: none is followed
                case _:
                    yield self._member(header, kind, size, extended)
                    extended = {}
                    self._skip()

    def chunks(self) -> Iterator[bytes]:
        """The content of the present member, in chunks of at most `CHUNK` bytes."""
        while self._left:
            chunk = self._some(self._left)
            self._left -= len(chunk)
            yield chunk

    def _member(self, header: bytes, kind: bytes, size: int, extended: dict[str, str]) -> Member:
        name = extended.get("path") or _name(header)
        if kind == b"S" or any(key.startswith("GNU.sparse.") for key in extended):
            raise Damaged(f"{name[:80]!r} is a sparse file: pack it as a plain one")
        if kind not in _KINDS:
            raise Damaged(f"{name[:80]!r} is of an unknown kind, {kind!r}")
        if "size" in extended:
            size = _decimal(extended["size"])
        meant = Kind.FOLDER if _KINDS[kind] is Kind.FILE and name.endswith("/") else _KINDS[kind]
        if meant is Kind.FILE:
            self._left, self._padding = size, -size % BLOCK
        return Member(_plain(name), meant, size if meant is Kind.FILE else 0)

    def _header(self) -> bytes | None:
        """None at the end: a block of zeros, or no more bytes."""
        self._headers += 1
        if self._headers > _MAX_HEADERS:
            raise Damaged(f"has more than {_MAX_HEADERS} entries")
        block = self._stream.read(BLOCK)
        while 0 < len(block) < BLOCK:
            more = self._stream.read(BLOCK - len(block))
            if not more:
                raise Damaged("ends in the middle of a header")
            block += more
        if not block.strip(b"\0"):
            return None
        expected = _number(block[148:156])
        if sum(block[:148]) + sum(block[156:]) + 8 * ord(" ") != expected:
            raise Damaged("is not a tar archive, or a damaged one: the checksum of a header is wrong")
        return block

    def _extended_header(self, size: int) -> bytes:
        if size > _MAX_EXTENDED_HEADER:
            raise Damaged(f"has an extended header of {size} bytes")
        self._left, self._padding = size, -size % BLOCK
        content = b"".join(self.chunks())
        self._skip()
        return content

    def _skip(self) -> None:
        for _ in self.chunks():
            pass
        while self._padding:
            self._padding -= len(self._some(self._padding))

    def _some(self, most: int) -> bytes:
        chunk = self._stream.read(min(CHUNK, most))
        if not chunk:
            raise Damaged("ends in the middle of a file")
        return chunk


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    # GNU tar has times where POSIX has the beginning of a long name.
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _plain(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise Damaged(f"{name[:80]!r} leads out of the archive")
    return "/".join(parts)


def _text(field: bytes) -> str:
    try:
        return field.partition(b"\0")[0].decode()
    except UnicodeDecodeError:
        raise Damaged(f"{field[:40]!r} is not a name in UTF-8") from None


def _number(field: bytes) -> int:
    """Octal digits; or, marked by the first bit, a binary number (GNU tar, for 8 GiB and more)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise Damaged(f"{field!r} is not a size")
    return int(digits, 8)


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Damaged(f"{text[:20]!r} is not a size")
    return int(text)


def _records(content: bytes) -> dict[str, str]:
    """`<length> <key>=<value>\\n`, again and again; the length counts all of it. What is no text is left out."""
    records = {}
    position = 0
    while position < len(content):
        length_text, separator, _ = content[position : position + 24].partition(b" ")
        length = _decimal(length_text.decode("ascii", errors="replace"))
        record = content[position : position + length]
        if not separator or length <= len(length_text) + 1 or len(record) != length or not record.endswith(b"\n"):
            raise Damaged("has an extended header that is not well formed")
        key, _, value = record[len(length_text) + 1 : -1].partition(b"=")
        try:
            records[key.decode()] = value.decode()
        except UnicodeDecodeError:
            if key in (b"path", b"size"):
                raise Damaged(f"{value[:40]!r} is not a name in UTF-8") from None
        position += length
    return records
