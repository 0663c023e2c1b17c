"""`kind: Gateway`: read, written, planned with the endpoints, stored, told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.domain.endpoint import AuthMode
from router.domain.errors import Invalid
from router.domain.listening import (
    DEFAULT,
    Clients,
    Everything,
    GatewaySpec,
    Listener,
    Offer,
    Place,
    Premises,
    Selected,
)
from router.plan import Action
from router.rules import overheard
from router.server_state import server_calls, server_view, visible_at
from router.spec import Document, SpecProblems, SpecSource, read_documents, read_specs, to_plain, to_yaml
from serving.exchange import HttpRequest, HttpResponse
from serving.server_view import IndexEntry, ServerView
from tests.fakes import Bench

TEXT = b"""
kind: Gateway
listeners:
  - name: default
    endpoints: [b, a]
  - name: inside
    address: 10.0.0.5
    port: 9000
    tls: false
    endpoints: {names: [c], groups: [team]}
    allow_clients: [10.0.0.0/8]
    deny_clients: [10.0.0.66/32]
    trusted_proxies: [10.0.0.1/32]
    proxy_protocol: true
"""
SPEC = GatewaySpec(
    (
        Listener(DEFAULT, Selected(("a", "b"))),
        Listener(
            "inside",
            Selected(("c",), ("team",)),
            Place("10.0.0.5", 9000, is_tls=False),
            Clients(("10.0.0.0/8",), ("10.0.0.66/32",)),
            ("10.0.0.1/32",),
            is_proxied=True,
        ),
    )
)


def read(text: bytes) -> Any:
    (document,) = read_specs([SpecSource("g.yaml", text, "/")])
    return document.content


def gateway(*listeners: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Gateway", "listeners": list(listeners)}


def inside(endpoints: Any = "all", **keys: Any) -> dict[str, Any]:
    return {"name": "inside", "address": "10.0.0.5", "port": 9000, "tls": False, "endpoints": endpoints, **keys}


ALL = {"name": "default", "endpoints": "all"}


def documents(*specs: dict[str, Any]) -> tuple[Document, ...]:
    return read_documents(list(specs))


def endpoint(name: str = "e", **keys: Any) -> dict[str, Any]:
    return {"kind": "Endpoint", "name": name, **keys}


def test_a_gateway_is_read_and_written_back() -> None:
    assert read(TEXT) == SPEC
    assert read(to_yaml([SPEC]).encode()) == SPEC
    assert read(to_yaml([GatewaySpec()]).encode()) == GatewaySpec()
    (again,) = read_documents([to_plain(SPEC)])
    assert again.content == SPEC


@pytest.mark.parametrize(
    ("listener", "place", "words"),
    [
        ("{name: default}", "g.yaml:3:3: listeners[0]", "the key 'endpoints' is missing"),
        ("{name: default, endpoints: some}", "g.yaml:3:30: listeners[0].endpoints", "must say which endpoints"),
        ("{name: default, endpoints: [a, a]}", "g.yaml:3:30: listeners[0].endpoints", "'a' comes twice"),
        ("{name: default, endpoints: all, port: 1}", "g.yaml:3:35: listeners[0].port", "is where the options"),
        ("{name: x, endpoints: all, port: 1}", "g.yaml:3:3: listeners[0]", "has no address"),
        (
            "{name: x, endpoints: all, address: 10.0.0.5, port: 1, deny_clients: [10.0.0.1]}",
            "g.yaml:3:72: listeners[0].deny_clients[0]",
            "write 10.0.0.1/32 for this one alone",
        ),
        ("{name: x, endpoint: all}", "g.yaml:3:13: listeners[0].endpoint", "did you mean 'endpoints'?"),
    ],
)
def test_a_mistake_is_told_where_it_is(listener: str, place: str, words: str) -> None:
    with pytest.raises(SpecProblems) as error:
        read(f"kind: Gateway\nlisteners:\n- {listener}\n".encode())
    told = [str(problem) for problem in error.value.problems]
    assert any(line.startswith(place) and words in line for line in told), told


def test_the_gateway_is_described_once() -> None:
    with pytest.raises(SpecProblems, match="the gateway is described twice"):
        documents(gateway(ALL), gateway(ALL))


def test_an_endpoint_lists_its_clients() -> None:
    spec = endpoint(allow_clients=["10.0.0.0/8", "10.1.0.0/16"], deny_clients=["10.0.0.66/32"])
    (document,) = documents(spec)
    assert {**spec}.items() <= to_plain(document.content).items()
    with pytest.raises(SpecProblems, match="did you mean"):
        documents(endpoint(allow_clients=["10.0.0.1/8"]))


async def test_it_is_applied_stored_audited_and_told_and_a_second_time_changes_nothing() -> None:
    bench = Bench()
    asked = documents(gateway(ALL, inside(["a"])))
    planned = await bench.operations.apply(asked, is_dry_run=True, by="ann")
    assert [(change.kind, change.action) for change in planned.changes] == [("gateway", Action.CHANGED)]
    assert bench.desired.gateway == GatewaySpec()
    done = await bench.operations.apply(asked, by="ann")
    assert done.changes == planned.changes
    assert done.revisions == {}
    (document,) = asked
    assert bench.store.load_gateway() == bench.desired.gateway == document.content
    assert [offer.name for offer in bench.desired.offers] == ["default", "inside"]
    assert bench.reconciler.told == ["the gateway"]
    (link,) = bench.store.access.lines(0, 10)
    assert (link.record.actor, link.record.action, link.record.subject) == ("ann", "gateway_changed", "gateway")
    assert "inside" in link.record.detail
    (change,) = (await bench.operations.apply(asked, by="ann")).changes
    assert change.action is Action.UNCHANGED
    assert len(bench.store.access.lines(0, 10)) == 1


async def test_what_everybody_may_call_is_not_offered_to_others_by_mistake() -> None:
    bench = Bench()
    await bench.operations.apply(documents(endpoint("e"), endpoint("k", auth_mode="key")))
    with pytest.raises(SpecProblems, match="everybody on the network could call 'e': listener 'inside'"):
        await bench.operations.apply(documents(gateway(ALL, inside())))
    assert bench.desired.gateway == GatewaySpec()
    await bench.operations.apply(documents(gateway(ALL, inside(["k", "n"]))))
    with pytest.raises(SpecProblems, match="everybody on the network could call 'n'"):
        await bench.operations.apply(documents(endpoint("n")))
    await bench.operations.apply(documents(endpoint("n", allow_anonymous=True)))
    with pytest.raises(SpecProblems, match="everybody on the network could call 'k'"):
        await bench.operations.apply(documents(endpoint("k")))


async def test_keys_in_clear_text_on_a_network_are_warned_of_whenever_they_are_applied() -> None:
    bench = Bench()
    keyed = documents(endpoint("k", auth_mode="key"))
    assert (await bench.operations.apply(keyed)).notes == ()
    offered = documents(gateway(ALL, inside()))
    planned = await bench.operations.apply(offered, is_dry_run=True)
    done = await bench.operations.apply(offered)
    (warning,) = done.notes
    assert planned.notes == done.notes == (await bench.operations.apply(keyed)).notes
    assert "endpoint 'k' takes keys in clear text at listener 'inside' (10.0.0.5)" in warning


@pytest.mark.parametrize(
    ("mode", "address", "is_tls", "warnings"),
    [
        (AuthMode.KEY, "10.0.0.5", False, 1),
        (AuthMode.JWT, "0.0.0.0", False, 1),
        (AuthMode.KEY, "10.0.0.5", True, 0),
        (AuthMode.KEY, "127.0.0.1", False, 0),  # also behind a proxy of this machine, which may speak TLS
        (AuthMode.NONE, "10.0.0.5", False, 0),
        (AuthMode.MTLS, "10.0.0.5", False, 0),  # nobody gets in there
    ],
)
def test_only_credentials_that_others_could_read_are_warned_of(
    mode: AuthMode, address: str, is_tls: bool, warnings: int
) -> None:
    offer = Offer("inside", address, (9000,), is_tls, trusted_proxies=("127.0.0.1/32",))
    hidden = replace(offer, visible=Selected(("other",)))
    assert len(overheard([offer, hidden], "k", "", mode)) == warnings


async def test_a_gateway_and_its_endpoints_are_judged_as_they_are_together_and_refused_together() -> None:
    bench = Bench()
    await bench.operations.apply(documents(endpoint("e")))
    await bench.operations.apply(documents(endpoint("e", auth_mode="key"), gateway(ALL, inside())))
    with pytest.raises(SpecProblems, match="'f'"):
        await bench.operations.apply(documents(endpoint("f"), gateway(ALL, inside(["e", "f"]))))
    assert list(bench.desired.states) == ["e"]
    assert bench.desired.gateway.listeners[1].visible == Everything()


async def test_an_endpoint_that_moves_to_a_group_is_judged_by_that_groups_listeners() -> None:
    bench = Bench()
    await bench.operations.apply(documents(endpoint("e"), gateway(ALL, inside({"groups": ["team"]}))))
    with pytest.raises(SpecProblems, match="everybody on the network"):
        await bench.operations.apply(documents(endpoint("e", group="team")))


async def test_what_the_process_was_not_started_for_is_refused_with_its_place() -> None:
    with pytest.raises(SpecProblems, match="this gateway has no certificate") as error:
        await Bench().operations.apply(documents(gateway(ALL, inside(tls=True))))
    assert error.value.problems[0].key == "listeners[1].tls"


async def test_a_gateway_starts_with_the_listeners_it_had_or_not_at_all() -> None:
    bench = Bench(premises=Premises(is_tls=True))
    await bench.operations.apply(documents(gateway(ALL, inside(tls=True))))
    assert [offer.name for offer in Bench(bench.store, Premises(is_tls=True)).desired.offers] == ["default", "inside"]
    with pytest.raises(Invalid, match="this gateway has no certificate"):
        Bench(bench.store, Premises())


async def test_a_listener_tells_of_the_endpoints_that_it_shows() -> None:
    bench = Bench()
    await bench.operations.apply(
        documents(
            endpoint("a"),
            endpoint("b", allow_clients=["10.0.0.0/8"]),
            *({"kind": "Deployment", "name": "blue", "endpoint": name, "model": "file:/m.onnx"} for name in "ab"),
            gateway({"name": "default", "endpoints": ["a"]}, inside([])),
        )
    )
    states, offers = bench.desired.states.values(), bench.desired.offers

    def index(listener: str) -> list[str]:
        return [entry.name for entry in server_view("1", states, (), visible_at(listener, offers)).index]

    assert index("default") == ["a"]
    assert index("inside") == index("gone") == []
    everywhere = server_view("1", states, ()).index
    assert [entry.name for entry in everywhere] == ["a"]  # b is for some clients only


async def test_readiness_is_that_of_the_endpoints_that_are_shown() -> None:
    bench = Bench()
    blue = {"kind": "Deployment", "name": "blue", "endpoint": "a", "model": "file:/m.onnx"}
    await bench.operations.apply(documents(endpoint("a", traffic={"blue": 100}), blue))
    states = bench.desired.states.values()
    assert not server_view("1", states, ()).is_ready
    assert server_view("1", states, (), Selected(("other",))).is_ready


def test_a_call_about_the_server_is_answered_for_the_listener_that_it_came_by() -> None:
    handle = server_calls(lambda listener: ServerView("1", True, (IndexEntry(listener, "1", "READY"),)))

    def names(headers: dict[bytes, bytes]) -> bytes:
        replies: list[HttpResponse] = []
        handle(HttpRequest(b"POST", b"/v2/repository/index", headers, b"{}"), replies.append)
        return b"".join(replies[0].body)

    assert b'"default"' in names({})
    assert b'"inside"' in names({b"x-crossfade-listener": b"inside"})
