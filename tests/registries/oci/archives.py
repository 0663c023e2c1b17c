"""Tar archives for tests: honest ones from tarfile, and hostile ones that no packer makes."""

from __future__ import annotations

import gzip
import io
import tarfile

from adapters.registries.tar_members import Compression, zstd

IMAGE_TAR = "application/vnd.oci.image.layer.v1.tar"
IMAGE_TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
IMAGE_TAR_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One member, header and padded content, without the end of an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    head = info.tobuf(tarfile.PAX_FORMAT)
    return head + content + bytes(-len(content) % 512)


def packed(*members: bytes) -> bytes:
    return b"".join(members) + bytes(1024)


def tar_of(files: dict[str, bytes]) -> bytes:
    """As tarfile, and so many packers, write it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def compressed(compression: Compression, content: bytes) -> bytes:
    match compression:
        case Compression.NONE:
            return content
        case Compression.GZIP:
            return zipped(content)
        case Compression.ZSTD:
            return zstd.compress(content)


def with_header(name: str, kind: bytes, size_field: bytes, *, mode: bytes = b"0000644\0") -> bytes:
    """A header as it is written here, with a right checksum."""
    head = bytearray(512)
    head[: len(name)] = name.encode()
    head[100:108] = mode
    head[124:136] = size_field.ljust(12, b"\0")
    head[156:157] = kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head)
