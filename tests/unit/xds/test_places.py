"""The module that counts requests under way, by itself, in a host that does what Envoy does."""

from __future__ import annotations

import struct
from collections import Counter

import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.xds.wasm_host import SharedData, Worker, module, rule, text_of_module

SECRET = bytes(range(16))


def test_the_module_is_what_its_text_says() -> None:
    assert module() == bytes(wasmtime.wat2wasm(text_of_module())), "run: make places"


def test_so_many_may_be_under_way_and_one_more_when_one_has_ended() -> None:
    shared = SharedData()
    worker = Worker(shared)
    assert [worker.begins(request, rule(2, 0, "fraud")) for request in (7, 8, 9)] == [True, True, False]
    assert worker.refused == ["concurrency"]
    worker.ends(9)  # what was refused gives nothing back
    assert not worker.begins(10, rule(2, 0, "fraud"))
    worker.ends(8)
    assert worker.begins(11, rule(2, 0, "fraud"))
    for request in (7, 11):
        worker.ends(request)
    assert shared.counts == {}


def test_endpoints_count_each_for_itself_and_others_not_at_all() -> None:
    shared = SharedData()
    worker = Worker(shared)
    assert worker.begins(1, rule(1, 0, "fraud"))
    assert worker.begins(2, rule(1, 0, "frau"))
    assert worker.begins(3, None)
    assert sorted(shared.counts.values()) == [1, 1]
    for request in (1, 2, 3):
        worker.ends(request)
    assert shared.counts == {}


def test_a_caller_that_has_its_fill_leaves_the_places_of_others_alone() -> None:
    worker = Worker(SharedData())
    said = rule(3, 2, "fraud")
    assert [worker.begins(request, said, b"first") for request in (1, 2, 3)] == [True, True, False]
    assert [worker.begins(request, said, b"second") for request in (4, 5)] == [True, False]
    # The last one found a place as a caller, and none at the endpoint: it has given the first one back.
    assert worker.refused == ["concurrency_per_caller", "concurrency"]
    worker.ends(1)
    assert worker.begins(6, said, b"second")


def test_a_caller_is_another_one_at_another_endpoint_and_those_without_a_name_are_one() -> None:
    worker = Worker(SharedData())
    assert worker.begins(1, rule(0, 1, "fraud"), b"one")
    assert worker.begins(2, rule(0, 1, "scores"), b"one")
    assert [worker.begins(request, rule(0, 1, "fraud"), None) for request in (3, 4)] == [True, False]


def test_a_limit_that_changes_counts_what_is_under_way_already() -> None:
    shared = SharedData()
    worker = Worker(shared)
    assert all(worker.begins(request, rule(5, 0, "fraud")) for request in range(4))
    assert not worker.begins(4, rule(2, 0, "fraud"))
    for request in range(2):
        worker.ends(request)
    assert not worker.begins(5, rule(2, 0, "fraud"))
    assert worker.begins(6, rule(3, 0, "fraud"))
    for request in (2, 3, 6):
        worker.ends(request)
    assert shared.counts == {}


def test_workers_count_together_also_at_the_same_instant() -> None:
    shared = SharedData()
    here, there = Worker(shared), Worker(shared)
    shared.before_set = lambda: took.append(there.begins(1, rule(2, 0, "fraud")))
    took: list[bool] = []
    assert here.begins(1, rule(2, 0, "fraud"))
    assert took == [True]
    assert list(shared.counts.values()) == [2]

    shared.before_set = lambda: there.ends(1)
    here.ends(1)
    assert shared.counts == {}

    shared.before_set = lambda: took.append(there.begins(2, rule(1, 0, "fraud")))
    assert not here.begins(2, rule(1, 0, "fraud"))
    assert took == [True, True]
    assert list(shared.counts.values()) == [1]


def test_a_worker_that_starts_later_finds_the_counts_as_they_are() -> None:
    shared = SharedData()
    assert Worker(shared).begins(1, rule(1, 0, "fraud"))
    assert not Worker(shared).begins(1, rule(1, 0, "fraud"))


def test_without_its_secret_it_does_not_start() -> None:
    assert Worker(SharedData()).is_started
    assert not Worker(SharedData(), secret=b"short").is_started


def test_more_are_under_way_than_the_first_memory_has_room_for() -> None:
    shared = SharedData()
    worker = Worker(shared)
    said = rule(1_000_000, 0, "fraud")
    for request in range(20_000):
        assert worker.begins(request, said)
    assert list(shared.counts.values()) == [20_000]
    for request in range(20_000):
        worker.ends(request)
    assert shared.counts == {}


def siphash(key: bytes, text: bytes) -> int:
    """SipHash-2-4, by the book (https://www.aumasson.jp/siphash/siphash.pdf, section 2)."""
    mask = 2**64 - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def turned(word: int, by: int) -> int:
        return (word << by | word >> (64 - by)) & mask

    def rounds(times: int) -> None:
        for _ in range(times):
            v[0], v[2] = (v[0] + v[1]) & mask, (v[2] + v[3]) & mask
            v[1], v[3] = turned(v[1], 13) ^ v[0], turned(v[3], 16) ^ v[2]
            v[0] = turned(v[0], 32)
            v[2], v[0] = (v[2] + v[1]) & mask, (v[0] + v[3]) & mask
            v[1], v[3] = turned(v[1], 17) ^ v[2], turned(v[3], 21) ^ v[0]
            v[2] = turned(v[2], 32)

    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_counts_are_numbered_by_siphash() -> None:
    assert siphash(SECRET, bytes(range(15))) == 0xA129CA6149BE45E5  # the paper's own example
    for length in range(1, 64):
        shared = SharedData()
        assert Worker(shared, SECRET).begins(1, rule(1, 0, "e" * length))
        assert list(shared.counts) == [siphash(SECRET, b"e" * length)]


NAMES = ("fraud", "scores")
CALLERS = (b"one", b"two", b"", None)
begin = st.tuples(
    st.integers(0, 1), st.sampled_from(NAMES), st.sampled_from(CALLERS), st.integers(0, 4), st.integers(0, 3)
)
end = st.integers(0, 2**16)  # which of those under way


@settings(deadline=None)
@given(st.lists(begin | end, max_size=60))
def test_whatever_comes_and_goes_nobody_is_over_a_limit_and_nothing_is_lost(
    events: list[int | tuple[int, str, bytes | None, int, int]],
) -> None:
    shared = SharedData()
    workers = Worker(shared), Worker(shared)
    under_way: list[tuple[int, int, list[object]]] = []
    counts: Counter[object] = Counter()

    def finish(position: int) -> None:
        worker, request, taken = under_way.pop(position)
        workers[worker].ends(request)
        counts.subtract(taken)

    for request, event in enumerate(events):
        if isinstance(event, int):
            if under_way:
                finish(event % len(under_way))
            continue
        worker, endpoint, caller, of_all, of_each = event
        limits: dict[object, int] = {endpoint: of_all, (endpoint, caller or b""): of_each}
        taken = [count for count, most in limits.items() if most]
        is_free = all(counts[count] < limits[count] for count in taken)
        assert workers[worker].begins(request, rule(of_all, of_each, endpoint), caller) == is_free
        under_way.append((worker, request, taken if is_free else []))
        counts.update(taken if is_free else [])
        assert sorted(shared.counts.values()) == sorted(value for value in counts.values() if value)
    while under_way:
        finish(0)
    assert shared.counts == {}
