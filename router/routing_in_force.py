"""Tells Envoy its listeners and the routing of every endpoint, and knows what is in force: what Envoy acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.admin_ports import Failed, InForce, Pending, Settlement
from router.decisions import addresses_of, ready_deployments
from router.desired import Desired
from router.domain.endpoint import EndpointState
from router.domain.routing import Address, Replica, Routing, routing_for
from router.domain.traffic import Traffic, traffic_to_apply
from router.events import EventLog
from router.last_known import LastKnown
from router.ports import Acknowledged, DataPlane, Rejected, Unconfirmed

_CONFIRM_TIMEOUT_S = 30.0
_LISTENERS = ""  # stands where endpoints' names do


@dataclass(frozen=True, slots=True)
class Routed:
    """What Envoy was told about an endpoint, for which revision of it. `routing` None: that it is gone."""

    routing: Routing | None
    revision: int


class RoutingInForce:
    """Belongs to one event loop.

    `acknowledged` is called with a routing that comes in force; `settled` when Envoy took or refused an endpoint's.
    """

    def __init__(
        self,
        desired: Desired,
        data_plane: DataPlane,
        last_known: LastKnown,
        events: EventLog,
        acknowledged: Callable[[Routing], None],
        settled: Callable[[], None],
    ) -> None:
        self._desired = desired
        self._data_plane = data_plane
        self._last_known = last_known
        self._events = events
        self._acknowledged = acknowledged
        self._settled = settled
        self._routed: dict[str, Routed] = {}
        self._confirmed: dict[str, Routed] = {}
        self._errors: dict[str, str] = {}
        self._in_force: dict[str, Traffic] = {}  # by endpoint; survives restarts, unlike what was confirmed
        self._confirming: dict[str, asyncio.Task[None]] = {}

    def restore(self) -> None:
        """The traffic that was in force before a restart counts as in force."""
        self._in_force = self._last_known.traffic()

    def close(self) -> None:
        for task in self._confirming.values():
            task.cancel()

    def listen(self) -> None:
        """Have Envoy listen where that is asked for now."""
        self._data_plane.set_listeners(self._desired.offers)
        if (waiting := self._confirming.pop(_LISTENERS, None)) is not None:
            waiting.cancel()
        self._confirming[_LISTENERS] = asyncio.create_task(self._confirm_listeners(), name="confirm listeners")

    async def wait_listening(self, timeout_s: float) -> Settlement:
        match await self._data_plane.applied(_LISTENERS, timeout_s):
            case Acknowledged():
                return InForce()
            case Rejected(proxy, reason):
                return Failed(f"Envoy {proxy} refused it: {reason}")
            case Unconfirmed(reason):
                return Pending(reason)

    def route(self, name: str, replicas: tuple[Replica, ...]) -> None:
        """Tell Envoy what is to be true of one endpoint, when that is anything new. `replicas`: those of it."""
        before = self._routed.get(name)
        state = self._desired.states.get(name)
        if state is None:
            after = Routed(None, 0)
            if before is None or before == after:
                return
            self._data_plane.remove_endpoint(name)
            self._in_force.pop(name, None)
        else:
            after = Routed(self._routing(state, replicas), state.revision)
            if before == after:
                return
            if before is None or before.routing != after.routing:
                assert after.routing is not None
                self._data_plane.set_endpoint(after.routing)
        self._routed[name] = after
        self._errors.pop(name, None)
        if (waiting := self._confirming.pop(name, None)) is not None:
            waiting.cancel()
        self._confirming[name] = asyncio.create_task(self._confirm(name, after), name=f"confirm {name}")

    def confirmed(self, name: str) -> Routed | None:
        """What Envoy acknowledged last of an endpoint; None when nothing yet, or that it is gone."""
        return self._confirmed.get(name)

    def error(self, name: str) -> str:
        """Why Envoy refused what it was told last of an endpoint; empty when it did not."""
        return self._errors.get(name, "")

    def is_forgotten(self, name: str) -> bool:
        """Whether Envoy knows nothing of it. To be asked of an endpoint that was deleted."""
        return name not in self._routed or self._confirmed.get(name) == self._routed[name]

    def addresses_in_use(self) -> frozenset[Address]:
        """Where any Envoy may still send requests: what it was told last, and what it last acknowledged."""
        told = (*self._routed.values(), *self._confirmed.values())
        return frozenset(address for routed in told for address in addresses_of(routed.routing))

    def _routing(self, state: EndpointState, replicas: tuple[Replica, ...]) -> Routing:
        in_force = self._in_force.get(state.endpoint.name, Traffic()).restricted_to(state.deployments)
        traffic = traffic_to_apply(state.endpoint.traffic, in_force, ready_deployments(state, replicas))
        name = state.endpoint.name
        desired = self._desired
        return routing_for(state, traffic, replicas, desired.shield(name), desired.keys(name), desired.key_set(name))

    async def _confirm(self, name: str, routed: Routed) -> None:
        """Wait until Envoy has what it was told; only then is it in force."""
        while True:
            outcome = await self._data_plane.applied(name, _CONFIRM_TIMEOUT_S)
            match outcome:
                case Acknowledged():
                    self._note_in_force(name, routed)
                    break
                case Rejected(proxy, reason):
                    self._errors[name] = reason
                    self._events.publish(
                        "configuration_rejected", f"Envoy {proxy} refused {name!r}: {reason}", endpoint=name
                    )
                    break
                case _:
                    continue
        self._confirming.pop(name, None)
        self._settled()

    async def _confirm_listeners(self) -> None:
        """Tell when an Envoy cannot listen where it should."""
        while isinstance(outcome := await self._data_plane.applied(_LISTENERS, _CONFIRM_TIMEOUT_S), Unconfirmed):
            pass
        if isinstance(outcome, Rejected):
            self._events.publish("configuration_rejected", f"Envoy {outcome.proxy} refused: {outcome.reason}")
        self._confirming.pop(_LISTENERS, None)

    def _note_in_force(self, name: str, routed: Routed) -> None:
        if routed.routing is None:
            self._confirmed.pop(name, None)
            self._routed.pop(name, None)
            return
        self._confirmed[name] = routed
        self._acknowledged(routed.routing)
        traffic = routed.routing.traffic
        if self._in_force.get(name) != traffic:
            self._in_force[name] = traffic
            self._last_known.save_traffic(name, traffic)
            shares = " ".join(f"{deployment}={percent}" for deployment, percent in traffic.shares)
            self._events.publish("traffic_in_force", f"{name}: {shares or 'no traffic'}", endpoint=name)
