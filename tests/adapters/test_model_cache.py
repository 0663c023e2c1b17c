"""The model cache on a real disk: what appears in it, what never does, and what survives."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import resource
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.model_cache import ModelCache, Patience
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import ModelTree, TreeFile
from router.models.cache_ports import Cache, Corrupt, Kept, NoRoom
from router.models.ports import Download, RemoteFile, Resolution, SourceLimits, SourceUnavailable
from router.models.progress import PullProgress
from tests.fake_models import MemoryCache
from tests.scripted_source import ScriptedSource

REF = ModelRef("models", "/fraud@champion")
HASTY = Patience(tries=3, first_pause_s=0.001, longest_pause_s=0.002, silence_s=10.0)
GRAPH = random.Random(1).randbytes(300_000)
WEIGHTS = random.Random(2).randbytes(1_500_000)
FILES = {"fraud.onnx": GRAPH, "weights/w.bin": WEIGHTS}


def cache_at(folder: Path, limits: SourceLimits | None = None, keep_free_bytes: int = 0) -> ModelCache:
    return ModelCache(folder / "models", limits, HASTY, keep_free_bytes)


async def fetched(cache: Cache, source: ScriptedSource) -> Kept:
    resolution = source.listing(REF)
    progress = PullProgress(time.monotonic)
    return await cache.fetch(resolution, lambda file, offset: source.read(resolution, file, offset), progress)


async def refusal(cache: ModelCache, source: ScriptedSource) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as refused:
        await fetched(cache, source)
    assert await cache.entries() == ()
    return refused.value


def digest_of(files: dict[str, bytes]) -> str:
    return ModelTree.of(TreeFile(name, len(it), hashlib.sha256(it).hexdigest()) for name, it in files.items()).digest


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "models" / "trees").iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("kind", ["disk", "memory"])
async def test_every_cache_finds_what_was_fetched_and_forgets_what_was_collected_or_damaged(
    tmp_path: Path, kind: str
) -> None:
    real, fake = cache_at(tmp_path), MemoryCache(lambda: datetime.now(UTC))
    cache: Cache = real if kind == "disk" else fake
    for has_digests in (True, False):
        source = ScriptedSource(FILES, has_digests=has_digests, revision=str(has_digests))
        digest = digest_of(FILES)
        assert (await cache.find(digest), await cache.known(source.listing(REF))) == (None, None)
        assert await cache.verify(digest) is None
        kept = await fetched(cache, source)
        assert (kept.tree.digest, kept.folder.endswith(f"/trees/{digest}")) == (digest, True)
        for found in (await cache.find(digest), await cache.known(source.listing(REF)), await cache.verify(digest)):
            assert found is not None
            assert (found.folder, found.tree) == (kept.folder, kept.tree)
        assert [entry.tree for entry in await cache.entries()] == [kept.tree]
        assert (await cache.collect({digest}, 0)).digests == ()
        assert (await cache.collect((), 0)).digests == (digest,)
        assert await cache.find(digest) is None
        kept = await fetched(cache, source)
        if kind == "disk":
            _damage(Path(kept.folder, "fraud.onnx"))
        else:
            fake.damaged.add(digest)
        with pytest.raises(Corrupt):
            await cache.verify(digest)
        assert (await cache.find(digest), await cache.entries()) == (None, ())


async def test_a_model_is_a_read_only_folder_named_for_its_digest(tmp_path: Path) -> None:
    kept = await fetched(cache_at(tmp_path), ScriptedSource(FILES))
    digest = digest_of(FILES)
    folder = Path(kept.folder)
    assert (kept.tree.digest, folder) == (digest, tmp_path / "models" / "trees" / digest)
    assert (folder / "weights" / "w.bin").read_bytes() == WEIGHTS
    for path in (folder, folder / "weights"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o555
    for path in (folder / "fraud.onnx", folder / "weights" / "w.bin"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert path.stat().st_nlink == 1
    assert visible(tmp_path) == [digest, f"{digest}.json"]
    assert list((tmp_path / "models" / "parts").iterdir()) == []
    assert list((tmp_path / "models" / "locks").iterdir()) == []


@pytest.mark.parametrize("has_digests", [True, False])
async def test_what_is_here_is_not_fetched_again(tmp_path: Path, has_digests: bool) -> None:
    source = ScriptedSource(FILES, has_digests=has_digests)
    first = await fetched(cache_at(tmp_path), source)
    sent = source.sent
    cache = cache_at(tmp_path)
    known = await cache.known(source.listing(REF))
    assert known is not None
    assert known.tree == first.tree
    assert (await fetched(cache, source)).tree == first.tree
    assert source.sent == sent


async def test_one_file_keeps_its_own_digest_and_its_first_name(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    kept = await fetched(cache, ScriptedSource({"a.onnx": GRAPH}))
    assert kept.tree.digest == hashlib.sha256(GRAPH).hexdigest()
    again = await fetched(cache, ScriptedSource({"b.onnx": GRAPH}))
    assert os.listdir(again.folder) == ["a.onnx"]


@pytest.mark.parametrize("has_sizes", [True, False])
async def test_a_link_that_breaks_all_the_time_is_resumed_and_nothing_is_read_twice(
    tmp_path: Path, has_sizes: bool
) -> None:
    source = ScriptedSource(FILES, breaks_after=100_000, has_sizes=has_sizes, has_digests=has_sizes)
    kept = await fetched(cache_at(tmp_path), source)
    assert kept.tree.digest == digest_of(FILES)
    assert source.sent == len(GRAPH) + len(WEIGHTS)
    assert len(source.reads) == 3 + 15


async def test_a_source_that_cannot_begin_in_the_middle_is_told_after_bounded_tries(tmp_path: Path) -> None:
    source = ScriptedSource(FILES, breaks_after=100_000, has_ranges=False)
    error = await refusal(cache_at(tmp_path), source)
    assert isinstance(error, SourceUnavailable)
    assert "it cannot begin in the middle, and the connection was closed" in str(error)
    assert len(source.reads) <= 2 * HASTY.tries


async def test_a_source_without_ranges_is_fine_on_a_link_that_holds(tmp_path: Path) -> None:
    source = ScriptedSource(FILES, has_ranges=False)
    assert (await fetched(cache_at(tmp_path), source)).tree.digest == digest_of(FILES)


async def test_a_link_that_brings_nothing_is_given_up(tmp_path: Path) -> None:
    source = ScriptedSource(FILES, breaks_after=1)
    error = await refusal(cache_at(tmp_path), source)
    assert "models:/fraud@champion: fraud.onnx: gave up after 3 tries at 3 bytes of 300 kB" in str(error)


async def test_the_next_pull_goes_on_where_the_last_one_gave_up(tmp_path: Path) -> None:
    source = ScriptedSource(FILES, breaks_after=200_000)
    source.altered = lambda content: content[:200_000]  # then the rest never comes
    await refusal(cache_at(tmp_path), source)
    source.altered, source.breaks_after, source.reads, source.sent = lambda content: content, 0, [], 0
    await fetched(cache_at(tmp_path), source)
    assert source.reads == [("fraud.onnx", 200_000), ("weights/w.bin", 0)]


async def test_a_silent_link_is_a_broken_one(tmp_path: Path) -> None:
    class Silent(ScriptedSource):
        async def _chunks(self, content: bytes):  # type: ignore[no-untyped-def]
            await asyncio.Event().wait()
            yield b""

    cache = ModelCache(tmp_path / "models", None, Patience(2, 0.001, 0.002, silence_s=0.01), 0)
    assert "nothing came for 0.01 s" in str(await refusal(cache, Silent(FILES)))


async def test_one_flipped_bit_is_refused_and_not_kept(tmp_path: Path) -> None:
    def flipped(content: bytes) -> bytes:
        return bytes([content[0] ^ 1]) + content[1:]

    source = ScriptedSource(FILES, altered=flipped)
    assert "was announced: it was changed on its way" in str(await refusal(cache_at(tmp_path), source))
    source.altered = lambda content: content
    assert (await fetched(cache_at(tmp_path), source)).tree.digest == digest_of(FILES)


async def test_a_part_that_was_damaged_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    source = ScriptedSource(FILES, breaks_after=200_000)
    source.altered = lambda content: content[:200_000]
    await refusal(cache_at(tmp_path), source)
    (part,) = (path for path in (tmp_path / "models" / "parts").rglob("0"))
    part.write_bytes(b"\0" * 200_000)
    source.altered, source.breaks_after = lambda content: content, 0
    assert (await fetched(cache_at(tmp_path), source)).tree.digest == digest_of(FILES)


async def test_after_a_power_cut_parts_that_nobody_vouches_for_are_not_trusted(tmp_path: Path) -> None:
    source = ScriptedSource(FILES, breaks_after=200_000, has_digests=False)
    source.altered = lambda content: content[:200_000]
    await refusal(cache_at(tmp_path), source)
    (boot,) = (tmp_path / "models" / "parts").rglob("boot")
    boot.write_text("another start of the machine")
    source.altered, source.breaks_after, source.reads = lambda content: content, 0, []
    await fetched(cache_at(tmp_path), source)
    assert source.reads == [("fraud.onnx", 0), ("weights/w.bin", 0)]


async def test_more_than_announced_is_refused_and_so_is_more_than_allowed(tmp_path: Path) -> None:
    longer = ScriptedSource(FILES, altered=lambda content: content + b"more")
    assert "more came than the 300000 bytes" in str(await refusal(cache_at(tmp_path), longer))
    limits = SourceLimits(max_files=2, max_bytes=1_000_000)
    endless = ScriptedSource(FILES, has_sizes=False, has_digests=False)
    assert "larger than the 700 kB that a model may have" in str(await refusal(cache_at(tmp_path, limits), endless))
    assert "it has 1.8 MB, and 1.0 MB are allowed" in str(
        await refusal(cache_at(tmp_path, limits), ScriptedSource(FILES))
    )
    many = ScriptedSource({f"{number}.onnx": b"" for number in range(3)})
    assert "it has 3 files, and 2 are allowed" in str(await refusal(cache_at(tmp_path, limits), many))


@pytest.mark.parametrize(
    "names",
    [
        ["/etc/passwd"],
        ["../escape.onnx"],
        ["a/../../escape.onnx"],
        ["a/./b.onnx"],
        ["a//b.onnx"],
        ["nul\0.onnx"],
        ["a\\..\\b.onnx"],
        ["C:evil.onnx"],
        ["line\nfeed.onnx"],
        [".."],
        [""],
        ["x" * 256],
        ["/".join("d" * 20)],
        ["a.onnx", "A.onnx"],
        ["a", "a/b.onnx"],
        ["lone\udc80.onnx"],
        ["straße.onnx", "STRASSE.onnx"],
    ],
)
async def test_hostile_names_are_refused_before_anything_is_asked_for(tmp_path: Path, names: list[str]) -> None:
    source = ScriptedSource(dict.fromkeys(names, b"x"))
    files = tuple(RemoteFile(name, -1, "", name) for name in names)
    resolution = Resolution(REF, "p", "r", files)
    cache = cache_at(tmp_path)
    with pytest.raises(ModelUnavailable, match="models:/fraud@champion"):
        await cache.fetch(
            resolution, lambda file, offset: source.read(resolution, file, offset), PullProgress(time.monotonic)
        )
    assert source.reads == []
    assert _files_in(tmp_path) == []


@pytest.mark.parametrize(
    "digest", ["", "..", "../" * 21 + "x", "a" * 63, "A" * 64, "a" * 64 + "\n", "sha256:../../etc", "/" * 64, "٠" * 64]
)
async def test_hostile_digests_never_become_paths(tmp_path: Path, digest: str) -> None:
    cache = cache_at(tmp_path)
    with pytest.raises(Invalid):
        await cache.find(digest)
    with pytest.raises(Invalid):
        await cache.verify(digest)
    resolution = Resolution(REF, "p", "r", (RemoteFile("m.onnx", 1, digest or "x", "m"),))
    with pytest.raises(ModelUnavailable, match="is not a sha256 digest"):
        await cache.known(resolution)


async def test_a_damaged_model_is_put_aside_and_fetched_again(tmp_path: Path) -> None:
    cache, source = cache_at(tmp_path), ScriptedSource(FILES)
    kept = await fetched(cache, source)
    assert await cache.verify(kept.tree.digest) is not None
    _damage(Path(kept.folder, "weights", "w.bin"))
    assert await cache.find(kept.tree.digest) is not None  # sizes tell nothing
    with pytest.raises(Corrupt, match="its files have other digests"):
        await cache.verify(kept.tree.digest)
    assert await cache.find(kept.tree.digest) is None
    assert visible(tmp_path) == []
    assert await cache.verify(kept.tree.digest) is None
    await fetched(cache, source)
    assert await cache.verify(kept.tree.digest) is not None


@pytest.mark.parametrize("how", ["linked", "missing", "hard linked", "added to", "another size"])
async def test_every_kind_of_damage_is_found(tmp_path: Path, how: str) -> None:
    cache = cache_at(tmp_path)
    kept = await fetched(cache, ScriptedSource(FILES))
    _damage_somehow(how, Path(kept.folder), tmp_path / "elsewhere")
    with pytest.raises(Corrupt):
        await cache.verify(kept.tree.digest)
    assert await cache.entries() == ()


async def test_what_nobody_needs_is_collected_and_what_somebody_looked_for_is_not(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    live = await fetched(cache, ScriptedSource({"live.onnx": b"live"}))
    old = await fetched(cache, ScriptedSource({"old.onnx": b"old"}))
    assert (await cache.collect({live.tree.digest}, unused_for_s=3600)).digests == ()
    os.utime(tmp_path / "models" / "trees" / f"{old.tree.digest}.json", (0, 0))
    collected = await cache.collect({live.tree.digest}, unused_for_s=3600)
    assert (collected.digests, collected.freed_bytes) == ((old.tree.digest,), 3)
    assert [kept.tree.digest for kept in await cache.entries()] == [live.tree.digest]
    assert visible(tmp_path) == [live.tree.digest, f"{live.tree.digest}.json"]
    assert list((tmp_path / "models" / "quarantine").iterdir()) == []


async def test_downloads_that_nobody_continues_are_collected_after_a_week(tmp_path: Path) -> None:
    cache, source = cache_at(tmp_path), ScriptedSource(FILES, breaks_after=350_000)
    source.altered = lambda content: content[:350_000]
    await refusal(cache, source)
    (tmp_path / "models" / "trees" / ".new-manifest").write_text("the beginning of")
    assert (await cache.collect((), 0)).freed_bytes == 0
    for place in ("parts", "trees"):
        for path in (tmp_path / "models" / place).rglob("*"):
            os.utime(path, (0, 0))
    assert (await cache.collect((), 0)).freed_bytes >= 350_000
    assert list((tmp_path / "models" / "parts").iterdir()) == []
    assert list((tmp_path / "models" / "trees").iterdir()) == []


async def test_two_who_want_the_same_fetch_it_once(tmp_path: Path) -> None:
    source = ScriptedSource(FILES)
    one, other = cache_at(tmp_path), cache_at(tmp_path)
    first, second = await asyncio.gather(fetched(one, source), fetched(other, source))
    assert first.tree == second.tree
    assert source.sent == len(GRAPH) + len(WEIGHTS)


async def test_a_pull_that_is_cancelled_leaves_what_came_and_no_lock(tmp_path: Path) -> None:
    class Stalls(ScriptedSource):
        async def _chunks(self, content: bytes):  # type: ignore[no-untyped-def]
            yield content[:50_000]
            stalled.set()
            await asyncio.Event().wait()

    stalled = asyncio.Event()
    task = asyncio.create_task(fetched(cache_at(tmp_path), Stalls(FILES)))
    await stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    source = ScriptedSource(FILES)
    await fetched(cache_at(tmp_path), source)
    assert source.reads[0] == ("fraud.onnx", 50_000)


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_file_that_lies_on_this_machine_is_moved_and_believed_no_more_than_others(
    tmp_path: Path, is_damaged: bool
) -> None:
    spooled = tmp_path / "spooled"
    spooled.write_bytes(GRAPH[:-1] + b"!" if is_damaged else GRAPH)
    number = spooled.stat().st_ino
    source = ScriptedSource({"fraud.onnx": GRAPH})
    (listed,) = source.listing(REF).files
    resolution = Resolution(REF, "p", "r", (replace(listed, is_spooled=True),))

    @asynccontextmanager
    async def read(file: RemoteFile, offset: int) -> AsyncIterator[Download]:
        if spooled.exists():
            yield Download(0, _nothing(), str(spooled))
        else:
            async with source.read(resolution, file, offset) as download:
                yield download

    progress = PullProgress(time.monotonic)
    kept = await cache_at(tmp_path, keep_free_bytes=0).fetch(resolution, read, progress)
    status, content = _looked_at(Path(kept.folder, "fraud.onnx"))
    assert is_damaged or status.st_ino == number
    assert (content, stat.S_IMODE(status.st_mode), spooled.exists()) == (GRAPH, 0o444, False)
    assert (progress.reading().done_bytes, progress.reading().total_bytes) == (len(GRAPH), len(GRAPH))
    assert len(source.reads) == is_damaged


async def test_a_disk_that_would_be_full_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    source = ScriptedSource(FILES)
    error = await refusal(cache_at(tmp_path, keep_free_bytes=2**60), source)
    assert isinstance(error, NoRoom)
    assert "no room on the disk of" in str(error)
    assert "1.8 MB are to come" in str(error)
    assert source.reads == []


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may have more than a megabyte: writing on fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
async def test_a_disk_that_is_full_in_the_middle_is_told_and_gets_its_room_back(tmp_path: Path) -> None:
    error = await refusal(cache_at(tmp_path), ScriptedSource(FILES))
    assert isinstance(error, NoRoom)
    assert "is full: free some space" in str(error)
    assert list((tmp_path / "models" / "parts").iterdir()) == []
    assert list((tmp_path / "models" / "trees").iterdir()) == []


async def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    assert "the model cache at" in str(await refusal(cache_at(tmp_path), ScriptedSource(FILES)))


async def test_progress_counts_what_was_here_apart_from_what_comes(tmp_path: Path) -> None:
    source = ScriptedSource(FILES, breaks_after=200_000)
    source.altered = lambda content: content[:200_000]
    await refusal(cache_at(tmp_path), source)
    source.altered, source.breaks_after = lambda content: content, 0
    resolution, progress = source.listing(REF), PullProgress(time.monotonic)
    cache = cache_at(tmp_path)
    await cache.fetch(resolution, lambda file, offset: source.read(resolution, file, offset), progress)
    reading = progress.reading()
    assert (reading.done_bytes, reading.total_bytes, reading.fetched_bytes) == (1_800_000, 1_800_000, 1_600_000)
    assert reading.left_s == 0.0


def _looked_at(path: Path) -> tuple[os.stat_result, bytes]:
    return path.stat(), path.read_bytes()


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in ():
        yield chunk


def _damage(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def _damage_somehow(how: str, folder: Path, elsewhere: Path) -> None:
    file = folder / "fraud.onnx"
    folder.chmod(0o755)
    match how:
        case "linked":
            file.rename(elsewhere)
            file.symlink_to(elsewhere)
        case "missing":
            file.unlink()
        case "hard linked":
            os.link(file, elsewhere)
        case "added to":
            Path(folder, "more.onnx").write_bytes(b"more")
        case "another size":
            file.chmod(0o644)
            file.write_bytes(b"short")


def _files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]
