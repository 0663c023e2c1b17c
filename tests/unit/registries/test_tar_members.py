"""The tar reader: what honest packers wrote comes out as it went in, hostile archives are refused."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.registries.tar_members import Compression, Damaged, Kind, TarStream, Unpacked, zstd
from tests.registries.oci.archives import compressed, member, packed, tar_of, with_header

# Seconds mean nothing on a busy machine.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LIMIT = 1 << 40


def read(
    archive: bytes, *, compression: Compression = Compression.NONE, max_bytes: int = LIMIT
) -> dict[str, bytes | Kind]:
    """Name → the content of a file, or what else it is."""
    stream = TarStream(Unpacked(io.BytesIO(archive), compression, max_bytes))
    return {member.name: b"".join(stream.chunks()) if member.kind is Kind.FILE else member.kind for member in stream}


_PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1)
_NAMES = st.lists(_PARTS.filter(lambda part: part not in (".", "..")), min_size=1, max_size=6).map("/".join)


@PATIENT
@given(
    st.dictionaries(_NAMES, st.binary(max_size=2000), max_size=8),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from(Compression),
)
def test_what_tarfile_packs_comes_out_as_it_went_in(
    files: dict[str, bytes], form: int, compression: Compression
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    made = buffer.getvalue()
    assert read(compressed(compression, made), compression=compression) == files


def test_long_names_of_every_format_are_whole() -> None:
    name = "/".join(["a-folder-with-a-rather-long-name"] * 4) + "/model.onnx"
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo(name)
        assert read(packed(info.tobuf(form))) == {name: b""}


def test_a_long_name_belongs_to_the_next_member_alone() -> None:
    long = "x" * 200
    info = tarfile.TarInfo(long)
    archive = packed(info.tobuf(tarfile.GNU_FORMAT), member("short", b"1"))
    assert read(archive) == {long: b"", "short": b"1"}


def test_every_kind_is_told_apart_and_names_are_plain() -> None:
    archive = packed(
        member("./a/file", b"1"),
        member("a/folder/", kind=tarfile.DIRTYPE),
        member("a/symbolic", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("a/hard", kind=tarfile.LNKTYPE, link="a/file"),
        member("a/pipe", kind=tarfile.FIFOTYPE),
        member("a/disk", kind=tarfile.BLKTYPE),
        member("a//doubled", b"2"),
    )
    assert read(archive) == {
        "a/file": b"1",
        "a/folder": Kind.FOLDER,
        "a/symbolic": Kind.SYMBOLIC_LINK,
        "a/hard": Kind.HARD_LINK,
        "a/pipe": Kind.DEVICE,
        "a/disk": Kind.DEVICE,
        "a/doubled": b"2",
    }


def test_what_nobody_reads_is_passed_over() -> None:
    stream = TarStream(io.BytesIO(tar_of({"a": bytes(3000), "b": b"b"})))
    assert [(member.name, member.size) for member in stream] == [("a", 3000), ("b", 1)]


def test_sizes_beyond_eight_gibibytes_are_read_in_binary() -> None:
    head = with_header("large", b"0", b"\x80" + (1 << 40).to_bytes(11, "big"))
    assert next(iter(TarStream(io.BytesIO(head)))).size == 1 << 40


def _pax(records: bytes, kind: bytes = b"x") -> bytes:
    return member("pax", records, kind)


def _record(key: str, value: bytes) -> bytes:
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (member("/etc/passwd", b"x"), "leads out of the archive"),
        (member("a/../../b", b"x"), "leads out of the archive"),
        (_pax(_record("path", b"../b")) + member("a", b"x"), "leads out of the archive"),
        (with_header("s", b"S", b"0000000010"), "is a sparse file"),
        (_pax(_record("GNU.sparse.major", b"1")) + member("a"), "is a sparse file"),
        (with_header("k", b"Z", b"0"), "of an unknown kind"),
        (with_header("n", b"0", b"\xff" * 12), "is not a size"),
        (with_header("n", b"0", b"-0000000001"), "is not a size"),
        (with_header("n", b"0", b"99"), "is not a size"),
        (_pax(_record("size", b"-1")) + member("a", b"x"), "is not a size"),
        (_pax(_record("size", b"9" * 30)) + member("a", b"x"), "is not a size"),
        (_pax(b"5 a=b\n"), "not well formed"),
        (_pax(b"0 a=b\n"), "not well formed"),
        (_pax(b"4000 a=b\n"), "not well formed"),
        (_pax(b"x a=b\n"), "is not a size"),
        (_pax(_record("path", b"\xff\xfe")) + member("a"), "is not a name in UTF-8"),
        (_pax(_record("path", b"all"), b"g") + member("a"), "global header with path"),
        (with_header("x", b"x", b"00010000001"), "extended header of 2097153 bytes"),
        (with_header("x", b"L", b"\x80" + (1 << 50).to_bytes(11, "big")), "extended header of"),
        (b"\xff" * 512, "is not a size"),
        (b"hello, this is no tar archive".ljust(512, b"!"), "is not a size"),
        (member("a", b"x")[:100], "ends in the middle of a header"),
        (member("a", bytes(5000))[:2000], "ends in the middle of a file"),
        (bytes([member("a", b"x")[0] ^ 1]) + member("a", b"x")[1:], "checksum of a header is wrong"),
    ],
)
def test_a_hostile_archive_is_refused(archive: bytes, words: str) -> None:
    with pytest.raises(Damaged, match=words):
        read(archive)


@PATIENT
@given(st.data(), st.sampled_from(Compression))
def test_a_damaged_archive_is_refused_or_read_and_nothing_else_happens(
    data: st.DataObject, compression: Compression
) -> None:
    archive = packed(
        _pax(_record("path", b"a/long/name")), member("a", b"x" * 700), member("l", b"n", b"L"), member("b")
    )
    damaged = bytearray(compressed(compression, archive))
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    with suppress(Damaged):
        found = read(bytes(damaged[:cut]), compression=compression, max_bytes=100_000)
        assert all(".." not in name.split("/") and not name.startswith("/") for name in found)


def test_a_million_long_names_in_a_row_are_no_recursion() -> None:
    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.blocks = (member("x", b"name", b"L"), 0)

        def read(self, size: int = -1) -> bytes:
            block, at = self.blocks
            part = block[at : at + size]
            self.blocks = (block, (at + len(part)) % len(block))
            return part

    with pytest.raises(Damaged, match="has more than 200000 entries"):
        list(TarStream(Endless()))


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_a_bomb_ends_when_it_is_out_of_proportion(compression: Compression) -> None:
    bomb = compressed(compression, tar_of({"models/m.onnx": bytes(100 * 1024 * 1024)}))
    with pytest.raises(Damaged, match="more than 100 times as large"):
        read(bomb, compression=compression)


def test_more_than_the_limit_is_refused_whether_compressed_or_not() -> None:
    archive = tar_of({"m": bytes(20_000)})
    for compression in Compression:
        with pytest.raises(Damaged, match="more than 10000 bytes"):
            read(compressed(compression, archive), compression=compression, max_bytes=10_000)


@pytest.mark.parametrize(
    ("compression", "damage"),
    [
        (Compression.GZIP, lambda z: z[:-20]),
        (Compression.GZIP, lambda z: z[:50] + b"xxxx" + z[54:]),
        (Compression.GZIP, lambda z: b"nogzip" + z),
        (Compression.ZSTD, lambda z: z[: len(z) // 2]),
        (Compression.ZSTD, lambda z: b"nozstd" + z),
    ],
)
def test_what_is_not_well_compressed_is_refused(compression, damage) -> None:  # type: ignore[no-untyped-def]
    content = bytes(range(256)) * 100
    with pytest.raises(Damaged, match="cannot be decompressed"):
        read(damage(compressed(compression, tar_of({"m": content}))), compression=compression)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_several_streams_in_a_row_are_one_as_estargz_has_them(compression: Compression) -> None:
    archive = tar_of({"a": b"1", "b": bytes(4000)})
    streams = compressed(compression, archive[:700]) + compressed(compression, archive[700:])
    assert read(streams, compression=compression) == {"a": b"1", "b": bytes(4000)}


def test_a_zstd_file_that_wants_much_memory_is_refused() -> None:
    wide = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.enable_long_distance_matching: 1}
    archive = zstd.ZstdCompressor(options=wide).compress(tar_of({"m": b"x"}), zstd.ZstdCompressor.FLUSH_BLOCK)
    with pytest.raises(Damaged, match="cannot be decompressed"):
        read(archive, compression=Compression.ZSTD)
