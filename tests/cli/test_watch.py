"""Watched references on the command line."""

from __future__ import annotations

from router.domain.watching import Known, Named, Refused, Unmoved
from tests.cli.conftest import Terminal

SPEC = """
kind: Endpoint
name: e
traffic: {blue: 100}
watch: {policy: manual, window: 'Mon-Fri 08:00-17:00 UTC'}
---
kind: Deployment
name: blue
endpoint: e
model: file:/m.onnx
"""
NEXT = Known("r2", "", "models:/fraud/2", "2")


def watched(terminal: Terminal) -> Terminal:
    ran = terminal.run("apply", "-f", terminal.spec(SPEC))
    assert ran.code == 0, ran.err
    return terminal


def test_status_and_endpoint_show_tell_what_is_watched_and_how_fresh_that_is(terminal: Terminal) -> None:
    watched(terminal).bench.watching.happen("e", Unmoved("r1"))
    line = "file:/m.onnx (manual): names models:/fraud/1, which is in service; answered 0 s ago"
    assert f"Watched references:\n  e: {line}" in terminal.run("status").out
    assert f"watch:      {line}" in terminal.run("endpoint", "show", "e").out
    assert terminal.run("status", "-o", "json").json["watches"][0]["stage"] == "current"


def test_a_model_that_is_barred_is_shown_with_the_way_to_try_it_all_the_same(terminal: Terminal) -> None:
    watched(terminal).bench.watching.happen("e", Named(NEXT), Refused(NEXT, "graph: never ends"))
    out = terminal.run("endpoint", "show", "e").out
    assert "which is not tried by itself: graph: never ends (try it all the same: crossfade model accept e)" in out


def test_accept_says_yes_and_how_to_follow_what_comes_of_it(terminal: Terminal) -> None:
    watched(terminal).bench.watching.happen("e", Named(NEXT))
    ran = terminal.run("model", "accept", "e")
    assert ran.code == 0
    assert "names models:/fraud/2, which is not here yet" in ran.out
    assert "crossfade rollout watch e" in ran.err


def test_accept_fails_where_there_is_nothing_new(terminal: Terminal) -> None:
    watched(terminal).bench.watching.happen("e", Unmoved("r1"))
    ran = terminal.run("model", "accept", "e", "-o", "json")
    assert ran.code == 1
    assert "in service already" in ran.json["error"]["message"]
