"""What every store does, held against the fake and the real one alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from adapters.sqlite_store import SqliteStore
from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.deployment_settings import Resources
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Conflict
from router.domain.evidence import Evidence
from router.domain.listening import DEFAULT, GatewaySpec, Listener, Place, Selected
from router.domain.measurement import Latencies, Totals
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.policy import AtMost, CustomMetric, Policy
from router.domain.rollout import Announce, Page, Phase, RolloutSpec, Split, Standing, start
from router.domain.routing import Replica, ReplicaState, TcpAddress, TritonAddress, UnixAddress
from router.domain.sources import WebhookAnswer
from router.domain.strategy import canary
from router.domain.traffic import Mirror, Traffic
from router.domain.triton import RunningTriton, TritonServer
from router.ports import Store
from router.rollout_ports import Entry
from tests.fakes import NOON, MemoryStore

BLUE = DeployedModel(
    Deployment("blue", "e", ModelRef("file", "/m.onnx"), "3.3", resources=Resources(0.5, 0, 1025)),
    ResolvedModel("/m.onnx", "a" * 64),
)
TRITON = RunningTriton((TritonServer("t1"), TritonServer("t2", 9000, 9001)), "fraud_v2", 3)
RED = DeployedModel(Deployment("red", "e", TRITON, backend=Backend.TRITON), TRITON)
GREEN = replace(BLUE, spec=replace(BLUE.spec, name="green", model_version=""))
STATE = EndpointState(
    Endpoint("e", Traffic.of({"blue": 100}), Mirror("green", 5), allow_anonymous=True),
    MappingProxyType({"blue": BLUE, "green": GREEN, "red": RED}),
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


def test_the_gateway_is_as_it_was_until_it_is_saved(store: Store) -> None:
    assert store.load_gateway() == GatewaySpec()
    inside = Listener("inside", Selected(("e",), ("team",)), Place("10.0.0.5", 9000, is_tls=False))
    wanted = GatewaySpec((Listener(DEFAULT), inside))
    store.save([], [], (), wanted)
    assert store.load_gateway() == wanted
    store.save([STATE], [])
    assert store.load_gateway() == wanted


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
    four = Replica("4", "e", "red", "g3", TritonAddress("10.0.0.2", 8000, 8001), ReplicaState.READY)
    store.save_replicas([two, four, one])
    assert store.load_replicas() == (one, two, four)
    store.save_replicas([three])
    assert store.load_replicas() == (three,)


ROLLOUT = start(
    "r1",
    RolloutSpec(
        "e",
        "green",
        canary(),
        Policy(metrics=(CustomMetric("lag", AtMost(3), WebhookAnswer("http://127.0.0.1:1/lag")),)),
    ),
    Standing(Split(Traffic.of({"blue": 100})), {"blue": 1, "green": 1}),
    "ann",
    NOON,
)
LATER = replace(ROLLOUT, id="r2", revision=1)
BEGAN = Announce(1, NOON, "ann", Phase.PENDING, Phase.PENDING, "started")
PAGED = Page(2, NOON, "crossfade", Phase.ROLLING_BACK, Phase.ROLLING_BACK, "holding: blue has no replica")
LEARNED = Evidence.of_baseline(Totals(600, 2, Latencies((1.0, 2.0), (500, 98, 0))), Policy())


def test_rollouts_and_their_evidence_are_remembered_in_the_order_in_which_they_began(
    store: MemoryStore | SqliteStore,
) -> None:
    store.save([STATE], [])
    store.save_rollout(ROLLOUT, Evidence(), [BEGAN])
    store.save_rollout(LATER, Evidence(), [BEGAN])
    changed = replace(ROLLOUT, phase=Phase.PROGRESSING, revision=2)
    store.save_rollout(changed, LEARNED, [])
    assert store.load_rollouts() == ((changed, LEARNED), (LATER, Evidence()))


def test_an_announcement_is_written_once(store: MemoryStore | SqliteStore) -> None:
    store.save([STATE], [])
    store.save_rollout(ROLLOUT, Evidence(), [BEGAN])
    store.save_rollout(ROLLOUT, Evidence(), [BEGAN, PAGED])
    assert store.trail("e", 10) == (Entry("r1", "e", BEGAN), Entry("r1", "e", PAGED))
    assert store.trail("e", 1) == (Entry("r1", "e", PAGED),)
    assert store.trail("f", 10) == ()


def test_an_endpoint_takes_its_rollouts_along_and_none_is_written_for_one_that_is_gone(
    store: MemoryStore | SqliteStore,
) -> None:
    store.save([STATE], [])
    store.save_rollout(ROLLOUT, Evidence(), [BEGAN])
    store.save([], ["e"])
    assert store.load_rollouts() == ()
    store.save_rollout(ROLLOUT, Evidence(), [PAGED])
    store.save([STATE], [])
    assert store.load_rollouts() == ()
    assert store.trail("e", 10) == ()


def test_a_change_of_the_endpoint_leaves_its_rollouts_alone(store: MemoryStore | SqliteStore) -> None:
    store.save([STATE], [])
    store.save_rollout(ROLLOUT, LEARNED, [BEGAN])
    store.save([replace(STATE, revision=2)], [])
    assert store.load_rollouts() == ((ROLLOUT, LEARNED),)


def test_the_last_fifty_rollouts_are_remembered_and_every_line_of_the_trail(store: MemoryStore | SqliteStore) -> None:
    store.save([STATE], [])
    for number in range(60):
        store.save_rollout(replace(ROLLOUT, id=f"r{number}"), Evidence(), [BEGAN])
    assert [rollout.id for rollout, _ in store.load_rollouts()] == [f"r{number}" for number in range(10, 60)]
    assert len(store.trail("e", 100)) == 60


def test_everybody_who_is_to_be_told_of_an_announcement_is_untold_until_that_is_settled(
    store: MemoryStore | SqliteStore,
) -> None:
    one, two = "http://one/", "http://two/"
    told = replace(ROLLOUT, policy=replace(ROLLOUT.policy, notify=(one, two)))
    began, paged = Entry("r1", "e", BEGAN), Entry("r1", "e", PAGED)
    store.save([STATE], [])
    store.save_rollout(told, Evidence(), [BEGAN])
    store.save_rollout(told, Evidence(), [PAGED])
    assert store.untold() == ((one, began), (two, began), (one, paged), (two, paged))
    store.settle(two, began)
    store.settle(two, began)
    store.settle("http://three/", paged)
    store.save_rollout(told, Evidence(), [BEGAN])  # it is written already, and said
    assert store.untold() == ((one, began), (one, paged), (two, paged))


def test_nobody_is_untold_whom_no_rollout_names_or_whose_endpoint_is_gone(store: MemoryStore | SqliteStore) -> None:
    store.save([STATE], [])
    store.save_rollout(ROLLOUT, Evidence(), [BEGAN])
    assert store.untold() == ()
    told = replace(LATER, policy=replace(ROLLOUT.policy, notify=("http://one/",)))
    store.save_rollout(told, Evidence(), [BEGAN])
    store.save([], ["e"])
    store.save_rollout(told, Evidence(), [PAGED])
    assert store.untold() == ()
