"""The directory of replicas as a small detached Ray actor, and the two ways to talk to it.

Replicas announce themselves here, the control plane watches. The actor restarts by itself; it then knows nobody until
they announce themselves again, which its watchers must allow for (see `Watch.age_s`). Those on other hosts ask here for
certificates, which the control plane signs; a request is kept for as long as somebody waits for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import Any, cast

import ray

from router.domain.deployment import REPLICA_PROTOCOL
from router.domain.replica_tls import CertificateRequest, Certified, Declined
from router.domain.routing import Replica
from router.ports import RuntimeUnavailable
from serving.directory import Directory

NAMESPACE = "crossfade"

_PATIENCE_S = 2.0
_LONG_PATIENCE_S = 10.0

_Certificate = Certified | Declined | None


@dataclass(frozen=True, slots=True)
class Watch:
    """One answer of the directory. `epoch` names the actor's life, `age_s` is how long that has lasted.

    `requests`: for certificates, each with what it is answered by.
    """

    epoch: str
    age_s: float
    version: int
    replicas: tuple[Replica, ...]
    requests: tuple[tuple[str, CertificateRequest], ...] = ()


class DirectoryActor:
    """Runs inside Ray; asynchronous, so that many long polls can wait at once."""

    def __init__(self) -> None:
        self._directory = Directory()
        self._epoch = secrets.token_hex(8)
        self._born_s = time.monotonic()
        self._changed = asyncio.Event()
        self._asked: dict[str, tuple[CertificateRequest, asyncio.Future[Certified | Declined]]] = {}

    async def announce(self, replica: Replica) -> bool:
        released = self._directory.announce(replica, time.monotonic())
        self._wake_watchers()
        return released

    async def withdraw(self, replica_id: str) -> None:
        self._directory.withdraw(replica_id)
        self._wake_watchers()

    async def release(self, replica_ids: tuple[str, ...]) -> None:
        self._directory.release(replica_ids)

    async def forget_deployment(self, endpoint: str, deployment: str) -> None:
        self._directory.forget_deployment(endpoint, deployment)
        self._wake_watchers()

    async def watch(self, seen: tuple[str, int] | None, patience_s: float) -> Watch:
        """Answer when something differs from `seen` (epoch, version) or waits for an answer, or after `patience_s`."""
        give_up_s = time.monotonic() + patience_s
        while True:
            self._directory.expire(time.monotonic())
            now_s = time.monotonic()
            requests = tuple((key, request) for key, (request, answer) in self._asked.items() if not answer.done())
            if requests or seen != (self._epoch, self._directory.version) or now_s >= give_up_s:
                age_s, replicas = now_s - self._born_s, self._directory.replicas()
                return Watch(self._epoch, age_s, self._directory.version, replicas, requests)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                # Leases end without an event, so look again now and then.
                async with asyncio.timeout(min(0.5, give_up_s - now_s)):
                    await self._changed.wait()

    async def certified(self, request: CertificateRequest, patience_s: float) -> _Certificate:
        """What the control plane answers; None when it does not in time."""
        key = secrets.token_hex(8)
        answer: asyncio.Future[Certified | Declined] = asyncio.get_running_loop().create_future()
        self._asked[key] = (request, answer)
        self._wake_watchers()
        try:
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._asked[key]

    async def answer(self, key: str, answer: Certified | Declined) -> None:
        """Nobody waits for it any more, or it is there: then it changes nothing."""
        if key in self._asked and not self._asked[key][1].done():
            self._asked[key][1].set_result(answer)

    def _wake_watchers(self) -> None:
        self._changed.set()


def directory_name(gateway_id: str) -> str:
    return f"directory-{REPLICA_PROTOCOL}-{gateway_id}"


def start_directory(gateway_id: str) -> Any:
    """The gateway's directory actor, started when it does not run yet."""
    return (
        ray.remote(DirectoryActor)
        .options(
            name=directory_name(gateway_id),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,
        )
        .remote()
    )


def await_directory(actor: Any, patience_s: float) -> None:
    """Blocks until it answers. Raises `RuntimeUnavailable` when it does not within `patience_s`."""
    try:
        actor.watch.remote(None, 0.0).future().result(patience_s)
    except TimeoutError:
        raise RuntimeUnavailable(
            f"the directory of replicas has not started within {patience_s:.0f} s: look with `ray list actors` and "
            "`ray status` whether the cluster still starts processes; it is tried again"
        ) from None


def end_directory(actor: Any) -> None:
    ray.kill(actor, no_restart=True)


class RayAnnouncer:
    """How a replica talks to the directory. Calls never raise: a directory that is away is simply told again later."""

    def __init__(self, gateway_id: str) -> None:
        self._actor = ray.get_actor(directory_name(gateway_id), namespace=NAMESPACE)
        self.node_ip = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's has no annotations

    async def announce(self, replica: Replica) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return bool(await _answer(self._actor.announce.remote(replica)))
        except (ray.exceptions.RayError, TimeoutError):
            return False

    async def withdraw(self, replica_id: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await _answer(self._actor.withdraw.remote(replica_id))
        except (ray.exceptions.RayError, TimeoutError):
            return

    async def certified(self, request: CertificateRequest) -> _Certificate:
        """Implements `serving.certified.Desk`."""
        try:
            async with asyncio.timeout(_LONG_PATIENCE_S + _PATIENCE_S):
                return cast(_Certificate, await _answer(self._actor.certified.remote(request, _LONG_PATIENCE_S)))
        except (ray.exceptions.RayError, TimeoutError):
            return None


def _answer(reference: Any) -> asyncio.Future[Any]:
    """An awaitable for an object reference that works on any event loop, not only Ray's own."""
    return asyncio.wrap_future(reference.future())
