"""What the gateway as a whole says in the scoring protocol's words."""

from __future__ import annotations

from router.domain.routing import ReplicaState
from router.server_state import server_view
from serving.server_view import IndexEntry
from tests.fake_world import replica_of
from tests.unit.router.states import deployed, state

BLUE, GREEN = deployed("blue"), deployed("green", version="2")


def test_a_gateway_without_endpoints_is_ready_and_empty() -> None:
    view = server_view("1.0", [], [])
    assert (view.version, view.is_ready, view.index) == ("1.0", True, ())


def test_it_is_ready_when_every_deployment_with_traffic_answers() -> None:
    states = [state({"blue": 100}, BLUE, GREEN)]
    assert not server_view("1", states, []).is_ready
    assert not server_view("1", states, [replica_of(GREEN)]).is_ready
    assert server_view("1", states, [replica_of(BLUE)]).is_ready
    split = [state({"blue": 50, "green": 50}, BLUE, GREEN)]
    assert not server_view("1", split, [replica_of(BLUE)]).is_ready
    assert server_view("1", split, [replica_of(BLUE), replica_of(GREEN)]).is_ready


def test_one_endpoint_that_is_not_ready_is_enough() -> None:
    other = deployed("only", endpoint="spam")
    states = [state({"only": 100}, other), state({"blue": 100}, BLUE)]
    assert not server_view("1", states, [replica_of(BLUE)]).is_ready
    assert server_view("1", states, [replica_of(BLUE), replica_of(other)]).is_ready


def test_the_index_is_sorted_and_says_why_a_model_is_unavailable() -> None:
    broken, stopped = deployed("broken", version="3"), deployed("stopped", count=0, version="4")
    first = deployed("only", endpoint="ads")
    replicas = [replica_of(BLUE), replica_of(broken, 1, ReplicaState.FAILED, "no such file")]
    view = server_view("1", [state({}, BLUE, GREEN, broken, stopped), state({}, first)], replicas)
    assert view.index == (
        IndexEntry("ads", "1", "LOADING", ""),
        IndexEntry("fraud", "1", "READY"),
        IndexEntry("fraud", "3", "UNAVAILABLE", "no such file"),
        IndexEntry("fraud", "2", "LOADING", ""),
        IndexEntry("fraud", "4", "UNAVAILABLE", ""),
    )
