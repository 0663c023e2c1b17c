"""The Ray Serve deployment: where a replica's parts are put together. Ray places, checks and restarts it; requests
never pass through Ray.

The replica runs on an event loop and thread of its own, so that nothing Ray does on its loops can delay a request.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import uvloop

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import options_for
from adapters.ray.directory import RayAnnouncer
from adapters.ray.loopback import keep_internal_server_local
from adapters.ray.scaling import LOAD_METRIC
from adapters.triton.bridge import TritonBridge
from router.domain.endpoint import DeployedModel
from router.domain.triton import RunningTriton
from serving.model import Model, ModelSettings
from serving.ports import Backend
from serving.replica import ReplicaConfig, ReplicaService, Tell

_STUCK_AFTER_S = 20.0
_ASK_TRITONS_EVERY_S = 1.0

Result = TypeVar("Result")


class ReplicaActor:
    """Ray Serve calls the constructor (returns when the replica is ready), `check_health`, and `__del__` to drain."""

    def __init__(self, config: ReplicaConfig) -> None:
        _log_to_serve()
        keep_internal_server_local()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scoring", daemon=True)
        self._thread.start()
        # Serve retries a constructor in the same process, so the id is made here and not taken from the process.
        load = partial(load_model, config.cache_dir or _local_cache_dir())
        self._service = ReplicaService(secrets.token_hex(6), config, RayAnnouncer(config.gateway_id), load)
        try:
            self._on_loop(self._service.start()).result()
        except BaseException:
            self._end_loop()
            raise

    async def check_health(self) -> None:
        """Raises when the scoring loop is gone or stuck; Ray then replaces the replica."""
        if not self._thread.is_alive():
            raise RuntimeError("the scoring thread has ended")
        try:
            async with asyncio.timeout(_STUCK_AFTER_S):
                await asyncio.wrap_future(self._on_loop(asyncio.sleep(0)))
        except TimeoutError:
            raise RuntimeError(f"the scoring loop did not answer for {_STUCK_AFTER_S:.0f} s") from None

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray Serve when the deployment scales by itself: see adapters/ray/scaling.py."""
        return {LOAD_METRIC: await asyncio.wrap_future(self._on_loop(self._service.load()))}

    def __call__(self) -> str:
        return "requests reach replicas through the gateway, not through Ray"

    async def __del__(self) -> None:
        if not self._thread.is_alive():
            return
        await asyncio.wrap_future(self._on_loop(self._service.stop()))
        self._end_loop()

    def _on_loop(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)


def _log_to_serve() -> None:
    """Our own log lines go where Ray Serve writes this replica's."""
    for name in ("serving", "adapters"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = logging.getLogger("ray.serve").handlers
        logger.propagate = False


def _local_cache_dir() -> str:
    """Where a replica on another host keeps what it prepared for that host: the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "crossfade")


async def load_model(cache_dir: str, deployed: DeployedModel, tell: Tell) -> Model:
    """Load and warm the model of a deployment on this machine, or wait for the Tritons that serve it.

    Raises `ModelUnavailable`.
    """
    spec = deployed.spec
    model = Model(
        ModelSettings(
            name=spec.endpoint,
            version=deployed.model_version,
            max_batch_size=spec.batching.max_batch_size,
            max_waiting=spec.request_settings.max_concurrent_requests_per_instance,
            objective_s=spec.batching.latency_slo_ms / 1000,
            padding_mask=spec.batching.padding_mask,
            instances=spec.execution.instances_per_replica,
        )
    )
    await model.load(await _opener(cache_dir, deployed, tell))
    return model


async def _opener(cache_dir: str, deployed: DeployedModel, tell: Tell) -> Callable[[], Backend]:
    if isinstance(deployed.model, RunningTriton):
        bridge = await _bridge(deployed.model, tell)
        return lambda: bridge
    instances = itertools.count()
    return lambda: OnnxBackend(options_for(deployed, cache_dir, next(instances)))


async def _bridge(triton: RunningTriton, tell: Tell) -> TritonBridge:
    """Waits, without end, until a Triton answers with the model: it may well start after this replica."""
    bridge = TritonBridge(triton)
    try:
        while trouble := await asyncio.to_thread(bridge.connect):
            await tell(trouble)
            await asyncio.sleep(_ASK_TRITONS_EVERY_S)
    except BaseException:
        bridge.close()
        raise
    return bridge
