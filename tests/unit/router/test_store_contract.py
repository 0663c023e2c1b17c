"""What every store does, held against the fake and the real one alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from adapters.sqlite_store import SqliteStore
from router.domain.endpoint import DeployedModel, Deployment, Endpoint, EndpointState, Resources
from router.domain.errors import Conflict
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.routing import Replica, ReplicaState, TcpAddress, UnixAddress
from router.domain.traffic import Mirror, Traffic
from router.ports import Store
from tests.fakes import MemoryStore

BLUE = DeployedModel(
    Deployment("blue", "e", ModelRef("file", "/m.onnx"), "3.3", resources=Resources(0.5, 0, 1025)),
    ResolvedModel("/m.onnx", "a" * 64),
)
GREEN = replace(BLUE, spec=replace(BLUE.spec, name="green", model_version=""))
STATE = EndpointState(
    Endpoint("e", Traffic.of({"blue": 100}), Mirror("green", 5), allow_anonymous=True),
    MappingProxyType({"blue": BLUE, "green": GREEN}),
    revision=1,
)
OTHER = EndpointState(Endpoint("f"), revision=1)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    made = SqliteStore(tmp_path / "state.sqlite")
    yield made
    made.close()


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.load() == {}
    assert store.load_replicas() == ()


def test_what_is_saved_is_loaded(store: Store) -> None:
    store.save([STATE, OTHER], [])
    assert store.load() == {"e": STATE, "f": OTHER}


def test_a_changed_endpoint_replaces_the_old_one_wholly(store: Store) -> None:
    store.save([STATE], [])
    rest = EndpointState(Endpoint("e"), MappingProxyType({"green": GREEN}), revision=2)
    store.save([rest], [])
    assert store.load() == {"e": rest}


def test_what_is_deleted_is_gone(store: Store) -> None:
    store.save([STATE, OTHER], [])
    store.save([], ["e"])
    assert store.load() == {"f": OTHER}


def test_a_deleted_endpoint_begins_anew(store: Store) -> None:
    store.save([STATE], [])
    store.save([], ["e"])
    store.save([STATE], [])
    assert store.load() == {"e": STATE}


@pytest.mark.parametrize("revision", [0, 1, 3])
def test_a_revision_that_does_not_follow_is_refused_and_nothing_is_written(store: Store, revision: int) -> None:
    store.save([STATE], [])
    with pytest.raises(Conflict):
        store.save([OTHER, replace(STATE, endpoint=Endpoint("e"), revision=revision)], ["e"] if revision == 3 else [])
    assert store.load() == {"e": STATE}


def test_replicas_are_remembered_as_a_whole(store: Store) -> None:
    one = Replica("1", "e", "blue", "g1", UnixAddress("/run/1.sock"), ReplicaState.READY)
    two = Replica("2", "e", "blue", "g1", TcpAddress("10.0.0.1", 8080), ReplicaState.FAILED, "out of memory")
    three = Replica("3", "e", "green", "g2", TcpAddress("fd00::1", 8080), ReplicaState.LOADING)
    store.save_replicas([two, one])
    assert store.load_replicas() == (one, two)
    store.save_replicas([three])
    assert store.load_replicas() == (three,)
