"""The waiting room: where requests to a sleeping deployment wait until a replica has started.

Envoy knows it as the deployment's only replica. It holds each request without an answer, and tells the reconciler that
somebody is here. When a replica is ready and Envoy has acknowledged it, every request is answered "the work was not
begun, send it elsewhere" (serving/replies.py), which Envoy does by itself (router/xds/retries.py): the callers see one
slow request. Bodies stay in Envoy; the room forgets them at once.

Each deployment has a door of its own, a unix socket, because a request's path names the endpoint but not the deployment
that Envoy drew. What is bounded: the requests held for each door, beyond which they are refused at once (429), and the
time of each (503). While the control plane is down, nobody is let in: such requests fail. Envoy must be on this host,
as for the calls about the server.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient.grpc import service_pb2

from router.domain.deployment import DeployedModel
from router.domain.deployment_settings import MAX_REQUEST_BYTES
from router.domain.routing import Address, UnixAddress
from router.xds.gateway import NO_RETRY_HEADER
from serving.errors import NotStarted, Overloaded, ScoringError, Unavailable
from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.grpc_framing import grpc_error_response, is_grpc, message_response
from serving.listener import Listener
from serving.protocol import stream_paths
from serving.replies import error_response, json_response
from serving.stream_connection import answered_unread

Name = tuple[str, str]  # endpoint, deployment
Arrived = Callable[[Name], None]

_NO_RETRY = NO_RETRY_HEADER.encode()
_LEAVE = Unavailable("the model has just been started, ask again")


class WaitingRoom:
    """Implements `router.ports.WaitingRoom`. `token`: what Envoy shows."""

    def __init__(self, folder: Path, token: str) -> None:
        self._folder = folder
        self._token = token.encode()
        self._doors: dict[Name, _Door] = {}

    async def open(self, deployed: DeployedModel, arrived: Arrived) -> Address:
        """Hold what comes for this deployment from now on, and call `arrived` for every request."""
        spec = deployed.spec
        name = (spec.endpoint, spec.name)
        assert spec.scale_settings is not None
        limits = _Limits(spec.scale_settings.max_held_requests, spec.scale_settings.start_timeout_s)
        door = self._doors.get(name)
        if door is None:
            # In the same place after a restart: Envoy still sends there.
            digest = hashlib.sha256("\n".join(name).encode()).hexdigest()[:16]
            door = _Door(name, str(self._folder / f"{digest}.sock"))
            await door.listen(self._token, stream_paths(spec.endpoint, deployed.model_version))
            self._doors[name] = door
        door.hold(limits, arrived)
        return UnixAddress(door.path)

    def let_go(self, name: Name, reason: str) -> None:
        """A replica is ready, and Envoy knows: whoever waits is sent to it. With a `reason` there is none: 503."""
        door = self._doors.get(name)
        if door is not None:
            door.let_go(NotStarted(reason) if reason else _LEAVE)

    async def close_unused(self, used: Collection[Name], addresses_in_use: Collection[Address]) -> None:
        """Close the doors through which nobody comes any more."""
        for name, door in tuple(self._doors.items()):
            if name not in used and UnixAddress(door.path) not in addresses_in_use:
                del self._doors[name]
                await door.close()

    async def close(self) -> None:
        while self._doors:
            await self._doors.popitem()[1].close()


@dataclass(frozen=True, slots=True)
class _Limits:
    max_held: int
    timeout_s: float


@dataclass(eq=False, slots=True)
class _Held:
    """One request that waits, until `timer` ends it."""

    answer: Callable[[ScoringError], None]
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class _Door:
    def __init__(self, name: Name, path: str) -> None:
        self.path = path
        self._name = name
        self._held: set[_Held] = set()
        self._limits: _Limits | None = None  # None: nobody is held, all are sent on
        self._arrived: Arrived | None = None
        self._listener: Listener | None = None

    async def listen(self, token: bytes, stream_paths: Collection[bytes]) -> None:
        # Envoy has refused what is larger than the endpoint allows.
        streams = dict.fromkeys(stream_paths, answered_unread(self._handle))
        self._listener = Listener(self._handle, token, MAX_REQUEST_BYTES, streams)
        await self._listener.open_unix(self.path)

    def hold(self, limits: _Limits, arrived: Arrived) -> None:
        self._limits, self._arrived = limits, arrived

    def let_go(self, error: ScoringError) -> None:
        self._limits = None
        for held in tuple(self._held):
            self._end(held, error)

    async def close(self) -> None:
        self.let_go(_LEAVE)
        if self._listener is not None:
            await self._listener.close(grace_s=1.0)

    def _handle(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        of_grpc = is_grpc(request.headers)

        def answer(error: ScoringError) -> None:
            reply(grpc_error_response(error) if of_grpc else error_response(error))

        if (ready := _readiness(request, self._name[0])) is not None:
            reply(ready)
        elif self._limits is None or self._arrived is None:
            answer(_LEAVE)
        elif _NO_RETRY in request.headers:
            self._arrived(self._name)
            answer(
                NotStarted("the model is being started, and a request that may not be sent twice cannot wait for it")
            )
        elif len(self._held) >= self._limits.max_held:
            answer(Overloaded(f"the model is being started, and {len(self._held)} requests wait for it already"))
        else:
            held = _Held(answer)
            held.timer = asyncio.get_running_loop().call_later(self._limits.timeout_s, self._give_up, held)
            self._held.add(held)
            self._arrived(self._name)
            return lambda: self._forget(held)
        return None

    def _give_up(self, held: _Held) -> None:
        self._end(held, NotStarted("the model was asleep, and did not start in time"))

    def _end(self, held: _Held, error: ScoringError) -> None:
        self._forget(held)
        held.answer(error)

    def _forget(self, held: _Held) -> None:
        self._held.discard(held)
        if held.timer is not None:
            held.timer.cancel()


def _readiness(request: HttpRequest, endpoint: str) -> HttpResponse | None:
    """Asking whether a model is ready does not wake it: it is, for whoever is willing to wait."""
    if request.method == b"GET" and request.path.endswith(b"/ready"):
        return json_response({"name": endpoint, "ready": True})
    if request.method == b"POST" and request.path.endswith(b"/ModelReady"):
        message: bytes = service_pb2.ModelReadyResponse(ready=True).SerializeToString()
        return message_response((message,), len(message))
    return None
