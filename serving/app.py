"""The Ray Serve deployment: where a replica's parts are put together. Ray places, checks and restarts it; requests
never pass through Ray.

The replica runs on an event loop and thread of its own, so that nothing Ray does on its loops can delay a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import uvloop

from adapters.ray.directory import RayAnnouncer
from adapters.ray.home import take_users_home_back
from adapters.ray.loopback import keep_internal_server_local
from adapters.ray.scaling import LOAD_METRIC
from adapters.replica_tls import ReplicaKeys
from router.domain.replica_tls import ReplicaName, canonical_ip
from serving.certified import CertifiedReplica
from serving.loading import load_model
from serving.replica import ReplicaConfig, ReplicaService
from serving.triton_assembly import make_home
from serving.triton_replica import TritonReplica

_STUCK_AFTER_S = 20.0

# How long a thread that has run the model waits for the interpreter while the scoring loop is busy with requests. With
# Python's 5 ms, batches of 64 that take 10.4 ms began 1.9 ms apart (86% of ONNX Runtime alone; so 95%). The loop pays
# nothing for it: 200 µs of CPU a request, before and after.
_SWITCH_INTERVAL_S = 0.0001

Result = TypeVar("Result")


class ReplicaActor:
    """Ray Serve calls the constructor (returns when the replica is ready), `check_health`, and `__del__` to drain."""

    def __init__(self, config: ReplicaConfig) -> None:
        _log_to_serve()
        take_users_home_back(os.environ)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        keep_internal_server_local()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scoring", daemon=True)
        self._thread.start()
        # Serve retries a constructor in the same process, so the id is made here and not taken from the process.
        self._service = _service(secrets.token_hex(6), config, RayAnnouncer(config.gateway_id))
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
        if isinstance(self._service, TritonReplica):
            self._service.check()

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


def _service(replica_id: str, config: ReplicaConfig, announcer: RayAnnouncer) -> ReplicaService | TritonReplica:
    certified = None if config.socket_dir else _certified(replica_id, config, announcer)
    if config.deployed.spec.managed is None:
        load = partial(load_model, config.cache_dir or _local_cache_dir())
        return ReplicaService(replica_id, config, announcer, load, certified)
    return TritonReplica(replica_id, config, announcer, partial(make_home, config, certified))


def _certified(replica_id: str, config: ReplicaConfig, announcer: RayAnnouncer) -> CertifiedReplica:
    spec = config.deployed.spec
    name = ReplicaName(config.gateway_id, spec.endpoint, spec.name, replica_id, canonical_ip(announcer.node_ip))
    return CertifiedReplica(name, announcer, ReplicaKeys())
