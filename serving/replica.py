"""One replica from birth to death: load, warm up, listen, announce, drain. Knows no Ray and no ONNX Runtime."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from router.domain.deployment import DeployedModel
from router.domain.errors import CrossfadeError
from router.domain.routing import Address, Replica, ReplicaState, TcpAddress, UnixAddress
from serving.certified import CertifiedReplica
from serving.directory import ANNOUNCE_EVERY_S
from serving.listener import Listener
from serving.load import IdleWatch, LoadMeter
from serving.metrics import PATH as METRICS_PATH
from serving.metrics import metrics_handler
from serving.model import Model
from serving.protocol import ProtocolSettings, model_handler, stream_handlers
from serving.server_view import IndexEntry, ServerView

log = logging.getLogger(__name__)

# How long a draining replica waits for word that no Envoy sends it requests any more. The word can fail to come when
# the control plane is down; requests that then still arrive are answered "503, send it elsewhere", which Envoy does.
RELEASE_WAIT_S = 10.0

_SERVING = (ReplicaState.READY, ReplicaState.TROUBLED)


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What a replica needs to know.

    `socket_dir`: listen on a unix socket in that folder (Envoy is on this host); when empty, over TLS on a free port of
    this node's private address. `cache_dir`: where to keep what is prepared for this machine; empty: the user's.
    """

    gateway_id: str
    deployed: DeployedModel
    token: str = field(repr=False)
    crossfade_version: str
    socket_dir: str = ""
    cache_dir: str = ""


class Announcer(Protocol):
    """The cluster, as a replica sees it. Never raises."""

    async def announce(self, replica: Replica) -> bool:
        """Returns whether this replica has been released."""

    async def withdraw(self, replica_id: str) -> None: ...


# Says why the model cannot answer yet.
Tell = Callable[[str], Awaitable[None]]
LoadModel = Callable[[DeployedModel, Tell], Awaitable[Model]]


class ReplicaService:
    """Runs on one event loop. `start` returns when the replica is ready; `stop` drains it.

    `certified`: by what it is known when it listens beyond this host.
    """

    def __init__(
        self,
        replica_id: str,
        config: ReplicaConfig,
        announcer: Announcer,
        load_model: LoadModel,
        certified: CertifiedReplica | None = None,
    ) -> None:
        spec = config.deployed.spec
        self._config = config
        self._announcer = announcer
        self._load_model = load_model
        self._certified = certified
        self._self = Replica(
            id=replica_id,
            endpoint=spec.endpoint,
            deployment=spec.name,
            generation=config.deployed.generation,
            address=UnixAddress(""),
            state=ReplicaState.LOADING,
        )
        self._announcing: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._model: Model | None = None
        self._meter = LoadMeter(time.monotonic())
        self._idle = IdleWatch(time.monotonic())

    async def start(self) -> None:
        """Load and warm the model, open the listener, announce. Raises `CrossfadeError` when the model cannot serve."""
        self._announcing = asyncio.create_task(self._keep_announcing(), name="announce")
        try:
            self._model = await self._load_model(self._config.deployed, self._wait_for)
            limits = self._config.deployed.spec.request_settings
            max_bytes = limits.max_request_bytes
            whose = {"endpoint": self._self.endpoint, "deployment": self._self.deployment, "replica": self._self.id}
            metrics = {METRICS_PATH: metrics_handler(self._model.counters, whose)}
            settings = ProtocolSettings(max_request_bytes=max_bytes, request_timeout_s=limits.request_timeout_ms / 1000)
            handler = model_handler(self._model, self._view, settings, others=metrics)
            streams = stream_handlers(self._model, settings)
            self._listener = Listener(handler, self._config.token.encode(), max_bytes, streams)
            address = await self._open(self._listener)
        except CrossfadeError as error:
            await self._fail(str(error))
            raise
        self._idle = IdleWatch(time.monotonic())
        await self._become(replace(self._self, address=address, state=ReplicaState.READY, reason=""))
        log.info("ready at %s", address)

    async def stop(self) -> None:
        """Leave the data plane first, finish what is under way, then close."""
        if self._self.state not in _SERVING or self._listener is None or self._model is None:
            await self._withdraw()
            return
        self._self = replace(self._self, state=ReplicaState.DRAINING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_WAIT_S):
                await self._be_released()
        grace_s = self._config.deployed.spec.request_settings.request_timeout_ms / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._model.drain()
        await self._listener.close(grace_s=1.0)
        await self._withdraw()
        await self._model.close()
        log.info("stopped")

    async def load(self) -> float:
        """How busy this replica was since the call before: see serving/load.py."""
        if self._model is None:
            return 0.0
        # This coroutine runs on the scoring thread, so the thread's time is that of scoring.
        return self._meter.sample(time.monotonic(), self._model.work_done, time.thread_time())

    async def _open(self, listener: Listener) -> Address:
        if self._certified is None:
            path = os.path.join(self._config.socket_dir, f"{self._self.id}.sock")
            await listener.open_unix(path)
            return UnixAddress(path)
        await self._certified.start(self._wait_for)
        ip = self._certified.name.ip
        return TcpAddress(ip, await listener.open_tcp(ip, tls=self._certified.keys.context))

    async def _be_released(self) -> None:
        while not await self._announcer.announce(self._self):  # noqa: ASYNC110 (the directory is asked, it cannot call)
            await asyncio.sleep(0.05)

    async def _wait_for(self, what: str) -> None:
        if what != self._self.reason:
            await self._become(replace(self._self, reason=what))

    async def _become(self, replica: Replica) -> None:
        self._self = replica
        await self._announcer.announce(replica)

    async def _fail(self, reason: str) -> None:
        await self._become(replace(self._self, state=ReplicaState.FAILED, reason=reason))
        self._cancel_tasks()

    async def _withdraw(self) -> None:
        self._cancel_tasks()
        await self._announcer.withdraw(self._self.id)

    def _cancel_tasks(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
        if self._certified is not None:
            self._certified.close()

    async def _keep_announcing(self) -> None:
        while True:
            self._watch_trouble()
            self._watch_idleness()
            await self._announcer.announce(self._self)
            await asyncio.sleep(ANNOUNCE_EVERY_S)

    def _watch_trouble(self) -> None:
        """A model that runs elsewhere may go and come back."""
        if self._model is None or self._self.state not in _SERVING:
            return
        trouble = self._model.trouble
        state = ReplicaState.TROUBLED if trouble else ReplicaState.READY
        if trouble != self._self.reason:
            log.warning("the model changed", extra={"from": self._self.reason or "ready", "to": trouble or "ready"})
            self._self = replace(self._self, state=state, reason=trouble)

    def _watch_idleness(self) -> None:
        """Only a deployment that may sleep is told about it: every change wakes whoever watches the directory."""
        scaling = self._config.deployed.spec.scale_settings
        is_ready = self._self.state is ReplicaState.READY
        if scaling is None or not scaling.can_sleep or self._model is None or not is_ready:
            return
        idle_s = self._idle.idle_s(time.monotonic(), self._model.work_done)
        self._self = replace(self._self, is_idle=idle_s >= scaling.idle_timeout_s)

    def _view(self) -> ServerView:
        """What this replica can say about the server: its own model. Asked only while the control plane is away."""
        is_ready = self._model is not None and self._model.is_ready
        state = "READY" if is_ready else "UNAVAILABLE"
        entry = IndexEntry(self._self.endpoint, self._config.deployed.model_version, state)
        return ServerView(self._config.crossfade_version, is_ready, (entry,))
