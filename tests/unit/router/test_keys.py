"""Keys: what is kept of them, which there may be, and whom a change reaches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.sqlite_access import SqliteAccess
from adapters.sqlite_keys import SqliteKeys
from adapters.sqlite_store import SqliteStore
from router.domain.audit import Record
from router.domain.callers import Anyone, ApiKey, KeyHolders, KeySlot, access_of
from router.domain.endpoint import AuthMode, Endpoint, EndpointState
from router.domain.errors import Conflict, NotFound, StoreFailed
from router.keys import KeyStore, hashed, new_key
from tests.fakes import NOON, Bench, MemoryAccess, MemoryKeys

DONE = Record(NOON, "tester", "key_created", "e")
PRIMARY, SECONDARY = KeySlot.PRIMARY, KeySlot.SECONDARY


def kept(slot: KeySlot, sha256: str = "ab" * 32) -> ApiKey:
    return ApiKey(slot, sha256, NOON, "tester")


async def bench_with(*endpoints: str) -> Bench:
    bench = Bench()
    states = [EndpointState(Endpoint(name, auth_mode=AuthMode.KEY), revision=1) for name in endpoints]
    bench.store.save(states, [], [])
    bench.desired.publish(states, [])
    return bench


def test_a_key_is_256_random_bits_behind_a_prefix_that_scanners_know() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"cfk_[A-Za-z0-9_-]{43}", key) for key in keys)


async def test_the_first_key_is_the_primary_then_comes_the_secondary_then_none() -> None:
    bench = await bench_with("e")
    first, second = await bench.keys.create("e", "a"), await bench.keys.create("e", "b")
    assert [first.kept.slot, second.kept.slot] == [PRIMARY, SECONDARY]
    with pytest.raises(Conflict, match="regenerate or revoke"):
        await bench.keys.create("e", "c")

    await bench.keys.revoke("e", PRIMARY, "a")
    assert (await bench.keys.create("e", "d")).kept.slot is PRIMARY


async def test_only_the_hash_of_a_key_is_kept_and_nothing_shows_the_key() -> None:
    bench = await bench_with("e")
    issued = await bench.keys.create("e", "tester")

    assert issued.kept.sha256 == hashlib.sha256(issued.key.encode()).hexdigest()
    told = [event.message for event in bench.events.after(0)]
    assert told == ["primary key of e created by tester"]
    assert [line.record.action for line in bench.store.access.lines(0, 10)] == ["key_created"]
    assert issued.key not in repr(issued) + repr(bench.key_store.load()) + repr(told)


async def test_a_regenerated_key_replaces_its_own_kind_alone() -> None:
    bench = await bench_with("e")
    first, second = await bench.keys.create("e", "a"), await bench.keys.create("e", "a")
    again = await bench.keys.regenerate("e", PRIMARY, "b")

    assert bench.keys.of("e") == (again.kept, second.kept)
    assert first.kept not in bench.keys.of("e")
    assert bench.key_store.load() == {"e": bench.keys.of("e")}


async def test_every_change_reaches_the_reconciler_and_waits_for_the_proxies() -> None:
    bench = await bench_with("e")
    assert (await bench.keys.create("e", "a")).is_in_force
    bench.proxies.are_silent = True
    assert not await bench.keys.revoke("e", PRIMARY, "a")
    assert bench.reconciler.told == ["e", "e"]


async def test_who_is_not_there_is_named_with_who_is() -> None:
    bench = await bench_with("e")
    with pytest.raises(NotFound, match="endpoint 'f'"):
        await bench.keys.create("f", "a")
    await bench.keys.create("e", "a")
    with pytest.raises(NotFound, match="key of endpoint 'e' 'secondary' does not exist") as refusal:
        await bench.keys.revoke("e", SECONDARY, "a")
    assert refusal.value.known == ("primary",)


async def test_an_endpoint_that_is_made_again_under_a_name_has_none_of_its_namesakes_keys() -> None:
    bench = await bench_with("e")
    await bench.keys.create("e", "a")
    bench.desired.publish([], ["e"])
    bench.desired.publish([EndpointState(Endpoint("e", auth_mode=AuthMode.KEY), revision=1)], [])
    assert bench.keys.of("e") == ()


def test_a_protected_endpoint_without_a_key_lets_nobody_in() -> None:
    assert access_of(Endpoint("e"), [kept(PRIMARY)]) == Anyone()
    assert access_of(Endpoint("e", auth_mode=AuthMode.KEY), []) == KeyHolders(())
    assert access_of(Endpoint("e", auth_mode=AuthMode.KEY), [kept(SECONDARY, "b"), kept(PRIMARY, "a")]) == KeyHolders(
        ((PRIMARY, "a"), (SECONDARY, "b"))
    )


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    if request.param == "memory":
        yield MemoryKeys(MemoryAccess())
        return
    with sqlite(tmp_path) as keys:
        yield keys


def test_a_store_gives_back_what_was_put_into_it(store: KeyStore) -> None:
    store.put("e", kept(SECONDARY), DONE)
    store.put("e", kept(PRIMARY), DONE)
    store.put("e", kept(PRIMARY, "cd" * 32), DONE)
    store.put("f", kept(PRIMARY), DONE)
    store.remove("f", PRIMARY, DONE)
    store.remove("f", SECONDARY, DONE)
    assert store.load() == {"e": (kept(PRIMARY, "cd" * 32), kept(SECONDARY))}


def test_stored_keys_survive_a_restart_and_go_with_their_endpoint(tmp_path: Path) -> None:
    with sqlite(tmp_path) as keys:
        keys.put("e", kept(PRIMARY), DONE)
        keys.put("f", kept(PRIMARY), DONE)

    store = SqliteStore(tmp_path / "state.sqlite")
    store.save([], ["e"], [])
    assert SqliteKeys(store).load() == {"f": (kept(PRIMARY),)}
    assert len(SqliteAccess(store).lines(0, 10)) == 2
    store.close()


def test_keys_of_an_endpoint_that_is_not_stored_are_refused_and_not_recorded(tmp_path: Path) -> None:
    with sqlite(tmp_path) as keys, pytest.raises(StoreFailed, match="FOREIGN KEY"):
        keys.put("nobody", kept(PRIMARY), DONE)
    store = SqliteStore(tmp_path / "state.sqlite")
    assert SqliteAccess(store).lines(0, 10) == ()
    store.close()


def test_no_file_of_the_state_holds_a_key(tmp_path: Path) -> None:
    key = new_key()
    with sqlite(tmp_path) as keys:
        keys.put("e", kept(PRIMARY, hashed(key)), DONE)
    content = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert hashed(key).encode() in content
    assert key.encode() not in content


@contextmanager
def sqlite(folder: Path) -> Iterator[SqliteKeys]:
    """In a file that has the endpoints e and f."""
    store = SqliteStore(folder / "state.sqlite")
    store.save([EndpointState(Endpoint(name), revision=1) for name in ("e", "f")], [], [])
    yield SqliteKeys(store)
    store.close()
