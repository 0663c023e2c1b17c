"""The cache of optimised graphs: whole or not there, bounded, and no trouble ever reaches the caller."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from adapters.onnx import graph_cache
from adapters.onnx.graph_cache import GraphCache, cpu_features, graph_key

KEY = "k" * 32


def keep(cache: GraphCache, content: bytes = b"graph", key: str = KEY) -> Path:
    kept = cache.make(key, lambda path: _write(path, content))
    assert kept is not None
    return kept


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path / "graphs")
    assert cache.find(KEY) is None
    kept = keep(cache)
    assert cache.find(KEY) == kept
    assert kept.read_bytes() == b"graph"
    assert GraphCache(tmp_path / "graphs").find("x" * 32) is None


def test_the_folder_is_the_user_s_alone(tmp_path: Path) -> None:
    keep(GraphCache(tmp_path / "graphs"))
    assert (tmp_path / "graphs").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"grap", b"Graph", b"graph and more"])
def test_a_damaged_graph_is_deleted_and_not_found(tmp_path: Path, damage: bytes) -> None:
    cache = GraphCache(tmp_path)
    kept = keep(cache)
    kept.write_bytes(damage)
    assert cache.find(KEY) is None
    assert not kept.exists()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    cache = GraphCache(tmp_path)
    assert cache.make(KEY, fail) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = GraphCache(tmp_path / "file" / "graphs")
    assert cache.find(KEY) is None
    assert cache.make(KEY, lambda path: _write(path, b"graph")) is None
    cache.remember_not_to_pay(KEY, tmp_path / "file" / "graphs" / "none")
    assert not cache.is_known_not_to_pay(KEY)


def test_writers_at_the_same_time_all_succeed_and_leave_whole_files(tmp_path: Path) -> None:
    together = threading.Barrier(4)
    kept: list[Path | None] = []

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        together.wait(timeout=30)
        path.write_bytes(content)

    def make(content: bytes) -> None:
        kept.append(GraphCache(tmp_path).make(KEY, lambda path: write(path, content)))

    threads = [threading.Thread(target=make, args=(content,)) for content in (b"same", b"same", b"other", b"same")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in kept
    found = GraphCache(tmp_path).find(KEY)
    assert found is not None
    assert found.read_bytes() in (b"same", b"other")
    assert not list(tmp_path.glob("*.part"))


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path)
    keys = [f"{number:032}" for number in range(graph_cache.MAX_FILES + 2)]
    for at, key in enumerate(keys):
        os.utime(keep(cache, key=key), (at, at))
    assert cache.find(keys[0]) is None
    assert cache.find(keys[1]) is None
    assert len(list(tmp_path.iterdir())) == graph_cache.MAX_FILES
    assert all(cache.find(key) for key in keys[2:])


def test_a_graph_that_is_used_is_not_the_oldest(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path)
    keys = [f"{number:032}" for number in range(graph_cache.MAX_FILES)]
    for at, key in enumerate(keys):
        os.utime(keep(cache, key=key), (at, at))
    assert cache.find(keys[0])
    keep(cache, key="n" * 32)
    assert cache.find(keys[0])
    assert cache.find(keys[1]) is None


def test_what_killed_writers_left_behind_goes_and_work_under_way_stays(tmp_path: Path) -> None:
    abandoned, under_way = tmp_path / "a.part", tmp_path / "b.part"
    for path in (abandoned, under_way):
        path.write_bytes(b"half")
    os.utime(abandoned, (1, 1))
    keep(GraphCache(tmp_path))
    assert not abandoned.exists()
    assert under_way.exists()


def test_a_graph_that_does_not_pay_is_remembered_and_gone(tmp_path: Path) -> None:
    cache = GraphCache(tmp_path)
    kept = keep(cache)
    cache.remember_not_to_pay(KEY, kept)
    assert cache.is_known_not_to_pay(KEY)
    assert cache.find(KEY) is None


def test_the_key_depends_on_everything_that_shapes_a_graph() -> None:
    key = graph_key("a", "1.31", {"providers": ["CPU"]}, "amd")
    assert key == graph_key("a", "1.31", {"providers": ["CPU"]}, "amd")
    others = {
        graph_key("b", "1.31", {"providers": ["CPU"]}, "amd"),
        graph_key("a", "1.32", {"providers": ["CPU"]}, "amd"),
        graph_key("a", "1.31", {"providers": ["CUDA"]}, "amd"),
        graph_key("a", "1.31", {"providers": ["CPU"]}, "intel"),
    }
    assert len(others | {key}) == 5


def test_cpus_differ_by_their_instruction_sets_and_not_by_their_clock(tmp_path: Path) -> None:
    def features(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        return cpu_features(tmp_path / "cpuinfo")

    one = features("model name\t: EPYC\ncpu MHz\t: 2596\nflags\t\t: fpu avx2 avx512f\n" * 2)
    assert one == features("model name\t: EPYC\ncpu MHz\t: 3100\nflags\t\t: fpu avx512f avx2\n" * 4)
    assert one != features("model name\t: EPYC\ncpu MHz\t: 2596\nflags\t\t: fpu avx2\n")
    assert features("CPU part\t: 0xd0c\nFeatures\t: fp asimd\n") != features("CPU part\t: 0xd0c\nFeatures\t: fp sve\n")


def test_a_machine_that_does_not_describe_its_cpu_has_a_key_all_the_same(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "none")
