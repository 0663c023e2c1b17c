"""Finding Tritons and asking whether they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.decisions import AppKey, wanted_apps
from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.routing import Replica, ReplicaState, TritonAddress
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken
from router.tritons import Tritons
from tests.unit.router.states import deployed, state

READY, LOADING, FAILED = ReplicaState.READY, ReplicaState.LOADING, ReplicaState.FAILED


@dataclass
class Network:
    """Implements `TritonAsker`. `hosts`: name → addresses; `troubles`: address → why it is not ready."""

    hosts: dict[str, tuple[str, ...]]
    troubles: dict[str, str] = field(default_factory=dict)

    async def addresses(self, server: TritonServer) -> tuple[TritonAddress, ...]:
        return tuple(TritonAddress(ip, server.http_port, server.grpc_port) for ip in self.hosts.get(server.host, ()))

    async def why_not_ready(self, address: TritonAddress, triton: RunningTriton) -> str:
        return self.troubles.get(address.ip, "")


@dataclass
class Trust:
    """Implements `TritonTrust`. `troubles`: CA → why it cannot be used."""

    troubles: dict[str, str] = field(default_factory=dict)
    looked_at: list[TritonTls] = field(default_factory=list)

    def look(self, wanted: Iterable[TritonTls]) -> None:
        self.looked_at = list(wanted)

    def trouble(self, tls: TritonTls) -> str:
        return self.troubles.get(tls.ca, "")


@dataclass
class Tokens:
    """Implements `TritonTokenTrust`. `troubles`: file → why it cannot be used."""

    troubles: dict[str, str] = field(default_factory=dict)
    looked_at: list[TritonToken] = field(default_factory=list)

    def look(self, wanted: Iterable[TritonToken]) -> None:
        self.looked_at = list(wanted)

    def trouble(self, token: TritonToken) -> str:
        return self.troubles.get(token.file, "")


def green(
    *hosts: str, count: int = 1, tls: TritonTls | None = None, restricted: TritonToken | None = None
) -> DeployedModel:
    servers = tuple(TritonServer(host) for host in hosts)
    model = RunningTriton(servers, "fraud", tls=tls, restricted=restricted)
    return DeployedModel(Deployment("green", "fraud", model, backend=Backend.TRITON, instance_count=count), model)


@dataclass
class World:
    """What operators want, the network, and what was told last."""

    network: Network
    trust: Trust
    tokens: Tokens
    tritons: Tritons
    states: dict[str, object]
    told: list[tuple[Replica, ...]]

    def want(self, *models: DeployedModel) -> None:
        self.states["fraud"] = state({}, *models)

    async def look(self) -> dict[str, ReplicaState]:
        """IP → state, after one look."""
        await self.tritons.look(self.tritons.wanted())
        return {str(one.address).split(":")[1]: one.state for one in self.told[-1]} if self.told else {}


def world(**hosts: tuple[str, ...]) -> World:
    network, trust, tokens, states, told = Network(dict(hosts)), Trust(), Tokens(), {}, []
    return World(network, trust, tokens, Tritons(states, network, trust, tokens, told.append), states, told)


async def test_every_address_of_every_host_is_a_replica() -> None:
    it = world(t1=("10.0.0.1",), t2=("10.0.0.2", "10.0.0.3"))
    it.want(deployed("blue"), green("t1", "t2"))
    it.network.troubles["10.0.0.3"] = "no answer"

    assert await it.look() == {"10.0.0.1": READY, "10.0.0.2": READY, "10.0.0.3": LOADING}
    (late,) = [one for one in it.told[-1] if one.state is LOADING]
    assert late.reason == "10.0.0.3:8000: no answer"


async def test_nothing_is_told_while_nothing_changes() -> None:
    it = world(t1=("10.0.0.1",))
    it.want(green("t1"))

    for _ in range(3):
        await it.look()

    assert len(it.told) == 1


async def test_one_that_was_ready_and_is_late_once_stays_ready() -> None:
    it = world(t1=("10.0.0.1",))
    it.want(green("t1"))
    await it.look()

    it.network.troubles["10.0.0.1"] = "no answer"
    assert await it.look() == {"10.0.0.1": READY}
    assert await it.look() == {"10.0.0.1": LOADING}
    del it.network.troubles["10.0.0.1"]
    assert await it.look() == {"10.0.0.1": READY}


async def test_a_host_that_nobody_knows_has_failed_and_one_that_was_known_stays_as_it_was() -> None:
    it = world(t1=("10.0.0.1",))
    it.want(green("t1", "nobody"))

    assert await it.look() == {"10.0.0.1": READY, "nobody": FAILED}
    assert "nobody knows the host 'nobody'" in [one.reason for one in it.told[-1]]
    it.network.hosts.clear()
    assert await it.look() == {"10.0.0.1": READY, "nobody": FAILED}


async def test_after_a_change_the_old_ones_stay_until_a_new_one_is_ready() -> None:
    it = world(t1=("10.0.0.1",), t2=("10.0.0.2",))
    it.want(green("t1"))
    await it.look()

    it.want(green("t2"))
    it.network.troubles["10.0.0.2"] = "loading"
    assert await it.look() == {"10.0.0.1": READY, "10.0.0.2": LOADING}
    del it.network.troubles["10.0.0.2"]
    assert await it.look() == {"10.0.0.2": READY}


async def test_one_that_is_stopped_or_deleted_is_not_asked() -> None:
    it = world(t1=("10.0.0.1",))
    it.want(green("t1"))
    await it.look()

    it.want(green("t1", count=0))
    assert await it.look() == {}
    it.states.clear()
    assert await it.look() == {}


async def test_what_was_found_before_a_restart_is_known_until_it_is_asked_again() -> None:
    it = world(t1=("10.0.0.1",))
    it.want(green("t1"))
    await it.look()
    found = it.told[-1]
    again = Tritons(it.states, it.network, it.trust, it.tokens, it.told.append)
    again.restore(found)

    it.network.troubles["10.0.0.1"] = "no answer"
    await again.look(again.wanted())

    assert it.told == [found]  # late once


async def test_a_change_of_what_is_wanted_is_seen_at_once() -> None:
    it = world(t1=("10.0.0.1",), t2=("10.0.0.2",))
    it.want(green("t1"))
    changed, told = asyncio.Queue[None](), asyncio.Queue[tuple[Replica, ...]]()
    running = asyncio.create_task(Tritons(it.states, it.network, it.trust, it.tokens, told.put_nowait).run(changed.get))
    await told.get()

    it.want(green("t2"))
    changed.put_nowait(None)
    (found,) = await told.get()
    running.cancel()

    assert str(found.address) == "triton:10.0.0.2:8000:8001"


async def test_whose_certificates_cannot_be_used_is_not_asked_and_says_why() -> None:
    it, tls = world(t1=("10.0.0.1",)), TritonTls("/ca.pem", server_name="t1")
    it.want(green("t1", tls=tls))
    it.trust.troubles["/ca.pem"] = "/ca.pem cannot be read"

    await it.look()
    assert it.trust.looked_at == [tls]
    assert [(one.state, one.reason) for one in it.told[-1]] == [(FAILED, "/ca.pem cannot be read")]
    del it.trust.troubles["/ca.pem"]
    assert await it.look() == {"10.0.0.1": READY}
    it.trust.troubles["/ca.pem"] = "not read yet"  # after a restart: what is known stays
    assert await it.look() == {"10.0.0.1": READY}


async def test_over_tls_the_port_that_is_asked_is_the_one_for_grpc() -> None:
    it = world(t1=("10.0.0.1",))
    it.want(green("t1", tls=TritonTls("/ca.pem")))
    it.network.troubles["10.0.0.1"] = "no answer"

    await it.look()

    assert [one.reason for one in it.told[-1]] == ["10.0.0.1:8001: no answer"]


def test_ray_is_not_asked_to_run_what_runs_elsewhere() -> None:
    blue = deployed("blue")
    apps: Mapping[AppKey, DeployedModel] = wanted_apps([state({}, blue, green("t1"))])
    assert list(apps.values()) == [blue]


async def test_replicas_ask_a_bridges_tritons_and_the_control_plane_does_not() -> None:
    triton = RunningTriton((TritonServer("t1"),), "fraud", mode=TritonMode.BRIDGE)
    bridge = DeployedModel(Deployment("green", "fraud", triton, backend=Backend.TRITON), triton)
    it = world()
    it.states["fraud"] = state({}, bridge)
    assert list(wanted_apps(it.states.values()).values()) == [bridge]
    assert it.tritons.wanted() == {}


async def test_whose_token_cannot_be_read_is_not_asked_and_says_why() -> None:
    it, token = world(t1=("10.0.0.1",)), TritonToken("x-token", "/run/token")
    it.want(green("t1", restricted=token))
    it.tokens.troubles["/run/token"] = "/run/token cannot be read"

    await it.look()
    assert it.tokens.looked_at == [token]
    assert [(one.state, one.reason) for one in it.told[-1]] == [(FAILED, "/run/token cannot be read")]
    del it.tokens.troubles["/run/token"]
    assert await it.look() == {"10.0.0.1": READY}


async def test_one_that_was_found_before_a_restart_stays_while_its_token_cannot_be_read_and_says_why() -> None:
    it, token = world(t1=("10.0.0.1",)), TritonToken("x-token", "/run/token")
    it.want(green("t1", restricted=token))
    assert await it.look() == {"10.0.0.1": READY}
    again = Tritons(it.states, it.network, it.trust, it.tokens, it.told.append)
    again.restore(it.told[-1])
    it.tokens.troubles["/run/token"] = "/run/token cannot be read"
    await again.look(again.wanted())
    assert [(one.state, one.reason) for one in it.told[-1]] == [(READY, "/run/token cannot be read")]
    del it.tokens.troubles["/run/token"]
    await again.look(again.wanted())
    assert [(one.state, one.reason) for one in it.told[-1]] == [(READY, "")]
