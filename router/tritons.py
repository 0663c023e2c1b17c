"""Which of the Tritons that Envoy asks for deployments are ready: found and asked, as long as the control plane runs.

They become replicas like others (`Replica`), so that traffic, rollouts and what operators are shown need to know
nothing of them. Envoy asks them as well; what is found here decides who gets traffic at all (domain/routing.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from router.decisions import AppKey, app_key
from router.domain.deployment import DeployedModel
from router.domain.endpoint import EndpointState
from router.domain.routing import Replica, ReplicaState, TritonAddress
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken

EVERY_S = 2.0
_AT_A_TIME = 32
_FOUND = "triton~"  # how the ids begin; those of replicas of ours are hexadecimal
# One that was ready and is late once may merely be busy; the second time in a row, it is not ready.
_PATIENCE = 2


class TritonAsker(Protocol):
    """Asks Tritons. Both answer within a few seconds."""

    async def addresses(self, server: TritonServer) -> tuple[TritonAddress, ...]:
        """Where the server is now; none when nobody knows its name."""

    async def why_not_ready(self, address: TritonAddress, triton: RunningTriton) -> str:
        """Empty when it answers that the model is ready; else a reason for operators."""


class TritonTrust(Protocol):
    """The certificates of those that are reached by TLS. Implemented by router/triton_certificates.py."""

    def look(self, wanted: Iterable[TritonTls]) -> None:
        """Put in force what is in their files."""

    def trouble(self, tls: TritonTls) -> str:
        """Why nobody can be reached with it; empty when somebody can."""


class TritonTokenTrust(Protocol):
    """The tokens of those that are restricted. Implemented by router/triton_tokens.py."""

    def look(self, wanted: Iterable[TritonToken]) -> None:
        """Put in force what is in their files."""

    def trouble(self, token: TritonToken) -> str:
        """Why nobody can be asked with it; empty when somebody can."""


class Tritons:
    """`tell` gets all of them whenever anything is new. Belongs to one event loop."""

    def __init__(
        self,
        states: Mapping[str, EndpointState],
        asker: TritonAsker,
        trust: TritonTrust,
        tokens: TritonTokenTrust,
        tell: Callable[[tuple[Replica, ...]], None],
    ) -> None:
        """`states` is a live view."""
        self._states = states
        self._asker = asker
        self._trust = trust
        self._tokens = tokens
        self._tell = tell
        self._found: tuple[Replica, ...] = ()
        self._late: dict[str, int] = {}  # replica → how often in a row it was not ready after it had been
        self._slots = asyncio.Semaphore(_AT_A_TIME)

    def look_at_files(self, wanted: Iterable[DeployedModel]) -> None:
        """Certificates and tokens."""
        tritons = [deployed.direct for deployed in wanted if deployed.direct]
        self._trust.look({triton.tls: None for triton in tritons if triton.tls})
        self._tokens.look({triton.restricted: None for triton in tritons if triton.restricted})

    def restore(self, found: Iterable[Replica]) -> None:
        """What was found before a restart."""
        self._found = tuple(found)

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """For ever. `changed` returns when something may have changed in what operators want."""
        while True:
            asked = self.wanted()
            await self.look(asked)
            loop = asyncio.get_running_loop()
            again_at_s = loop.time() + EVERY_S
            while loop.time() < again_at_s and self.wanted() == asked:
                try:
                    async with asyncio.timeout_at(again_at_s):
                        await changed()
                except TimeoutError:
                    break

    def wanted(self) -> dict[AppKey, DeployedModel]:
        """The deployments that Envoy asks Tritons for, without those that are stopped."""
        return {
            app_key(deployed): deployed
            for state in self._states.values()
            for deployed in state.deployments.values()
            if deployed.direct is not None and deployed.spec.least_instances > 0
        }

    async def look(self, wanted: Mapping[AppKey, DeployedModel]) -> None:
        """Ask all of them once, beside each other."""
        self.look_at_files(wanted.values())
        groups = await asyncio.gather(*(self._replicas(deployed) for deployed in wanted.values()))
        found = [replica for group in groups for replica in group]
        ready = {(one.endpoint, one.deployment) for one in found if one.state is ReplicaState.READY}
        names = {(endpoint, deployment) for endpoint, deployment, _ in wanted}
        # Those that a deployment had before it was changed, until one of those that it has now is ready.
        found += [
            old
            for old in self._found
            if (old.endpoint, old.deployment) in names - ready
            and (old.endpoint, old.deployment, old.generation) not in wanted
            and old.state is ReplicaState.READY
        ]
        self._late = {replica.id: self._late[replica.id] for replica in found if replica.id in self._late}
        after = tuple(sorted(found, key=lambda replica: replica.id))
        if after != self._found:
            self._found = after
            self._tell(after)

    async def _replicas(self, deployed: DeployedModel) -> list[Replica]:
        assert deployed.direct is not None
        servers = await asyncio.gather(*(self._server(deployed, server) for server in deployed.direct.servers))
        return list({replica.id: replica for replicas in servers for replica in replicas}.values())

    async def _server(self, deployed: DeployedModel, server: TritonServer) -> list[Replica]:
        assert deployed.direct is not None
        trouble = self._trouble(deployed.direct)
        async with self._slots:
            addresses = await self._asker.addresses(server)
        if addresses and not trouble:
            return list(await asyncio.gather(*(self._replica(deployed, server, address) for address in addresses)))
        endpoint, name, generation = app_key(deployed)
        prefix = _id(deployed, server, "")
        if known := [one for one in self._found if one.id.startswith(prefix) and one.state is not ReplicaState.FAILED]:
            return [replace(one, reason=trouble) for one in known] if trouble else known
        nowhere = TritonAddress(server.host, server.http_port, server.grpc_port)
        reason = trouble or f"nobody knows the host {server.host!r}"
        return [Replica(f"{prefix}?", endpoint, name, generation, nowhere, ReplicaState.FAILED, reason)]

    def _trouble(self, triton: RunningTriton) -> str:
        """Why no Triton of a deployment can be asked at all."""
        trouble = self._trust.trouble(triton.tls) if triton.tls else ""
        return trouble or (self._tokens.trouble(triton.restricted) if triton.restricted else "")

    async def _replica(self, deployed: DeployedModel, server: TritonServer, address: TritonAddress) -> Replica:
        assert deployed.direct is not None
        async with self._slots:
            reason = await self._asker.why_not_ready(address, deployed.direct)
        endpoint, name, generation = app_key(deployed)
        replica_id = _id(deployed, server, address.ip)
        was_ready = any(one.id == replica_id and one.state is ReplicaState.READY for one in self._found)
        self._late[replica_id] = self._late.get(replica_id, 0) + 1 if reason and was_ready else 0
        if not reason or (was_ready and self._late[replica_id] < _PATIENCE):
            return Replica(replica_id, endpoint, name, generation, address, ReplicaState.READY)
        port = address.grpc_port if deployed.direct.is_grpc_only else address.http_port
        reason = f"{address.ip}:{port}: {reason}"
        return Replica(replica_id, endpoint, name, generation, address, ReplicaState.LOADING, reason)


def is_found(replica: Replica) -> bool:
    """Whether it is one of these: asked from here, not announced by a process of ours."""
    return replica.id.startswith(_FOUND)


def _id(deployed: DeployedModel, server: TritonServer, ip: str) -> str:
    endpoint, name, generation = app_key(deployed)
    return f"{_FOUND}{endpoint}~{name}~{generation}~{server.host}:{server.http_port}~{ip}"
