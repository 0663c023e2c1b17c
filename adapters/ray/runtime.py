"""Ray and Ray Serve, as the control plane uses them: implements `router.ports.Runtime`.

One Serve application per generation of a deployment, so that changing a deployment in place starts the new replicas
beside the old ones. Ray's own HTTP proxy stays off: requests never pass through Ray.

Ray's calls block (one_thread.py). One that hangs is given up after a while, and with it the cluster; the control plane
ends without waiting for the thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

# Ray reads these when it is imported: no phoning home, and loopback addresses where the cluster is on loopback.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from ray.serve.schema import DeploymentStatusOverview, LoggingConfig

from adapters.ray.directory import NAMESPACE, Watch, await_directory, end_directory, start_directory
from adapters.ray.names import app_name, app_parts
from adapters.ray.one_thread import OneThread
from adapters.ray.scaling import autoscaling_config
from router.domain.deployment import DeployedModel, Deployment
from router.domain.replica_tls import CertificateRequest, Certified, Declined
from router.domain.routing import Replica
from router.ports import DeployRefused, RunningApp, RuntimeUnavailable
from serving.directory import LEASE_S
from serving.replica import ReplicaConfig

log = logging.getLogger("crossfade.ray")

_WATCH_PATIENCE_S = 5.0
_CONSTRUCTOR_TRIES = 3
# Ray's client asks a cluster that is gone for ever; past this time it is taken for lost.
_CALL_TIMEOUT_S = 60.0
_ASK_TIMEOUT_S = 15.0
# The directory's process may take long to start, which is no reason to take the cluster for lost.
_START_PATIENCE_S = 300.0
_HEALTHY = ("RUNNING", "DEPLOYING", "DELETING")

Result = TypeVar("Result")
Certify = Callable[[CertificateRequest], Certified | Declined]


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """What the replicas of this gateway need to know beside their model. See `ReplicaConfig`."""

    gateway_id: str
    token: str = field(repr=False)
    crossfade_version: str
    socket_dir: str
    log_dir: str  # where Ray Serve writes the replicas' logs; empty: where Ray keeps its own
    cache_dir: str  # see `ReplicaConfig`


class RayRuntime:
    """`replica_class` is the class to run (serving.app.ReplicaActor); the composition root passes it in. `certify`
    answers the replicas that ask for certificates."""

    def __init__(self, address: str, placement: ReplicaPlacement, replica_class: type, certify: Certify) -> None:
        self._address = address
        self._placement = placement
        self._replica_class = replica_class
        self._certify = certify
        self._calls = OneThread(_CALL_TIMEOUT_S)
        self._directory: Any = None

    async def connect(self) -> None:
        await self._translated(self._calls.join(self._connect))

    async def deploy(self, deployed: DeployedModel) -> None:
        try:
            await self._blocking(lambda: self._deploy(deployed))
        except (TypeError, ValueError) as error:  # what Ray Serve raises for options that it does not take
            raise DeployRefused(_first_line(error)) from error

    async def delete(self, app: RunningApp) -> None:
        def delete() -> None:
            serve.delete(self._app_name(app.endpoint, app.deployment, app.generation), _blocking=False)

        await self._blocking(delete)
        await self._ask(self._directory.forget_deployment.remote(app.endpoint, app.deployment))

    async def running(self) -> tuple[RunningApp, ...]:
        return await self._blocking(self._running)

    async def leave(self) -> None:
        if self._directory is not None and not await self.running():
            await self._blocking(lambda: end_directory(self._directory))

    async def release(self, replica_ids: tuple[str, ...]) -> None:
        await self._ask(self._directory.release.remote(replica_ids))

    async def replicas(self, known: tuple[Replica, ...]) -> AsyncIterator[tuple[Replica, ...]]:
        """Long-polls the directory.

        A directory that was restarted knows nobody at first: until everybody had time to announce themselves again,
        what was known before stays known.
        """
        present = {replica.id: replica for replica in known}
        seen: tuple[str, int] | None = None
        while True:
            watch: Watch = await self._ask(
                self._directory.watch.remote(seen, _WATCH_PATIENCE_S), timeout_s=_WATCH_PATIENCE_S + _ASK_TIMEOUT_S
            )
            for key, request in watch.requests:
                await self._ask(self._directory.answer.remote(key, self._certify(request)))
            announced = {replica.id: replica for replica in watch.replicas}
            is_young = watch.age_s <= LEASE_S
            present = {**present, **announced} if is_young else announced
            # A young directory is asked again at once it has grown up, whether or not anything changed.
            seen = (watch.epoch, watch.version)
            yield tuple(sorted(present.values(), key=lambda replica: replica.id))
            if is_young and present.keys() != announced.keys():
                seen = None
                await asyncio.sleep(0.2)

    def _connect(self) -> None:
        if ray.is_initialized():
            ray.shutdown()
        ray.init(
            address=self._address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
        )
        serve.start(proxy_location="Disabled")
        self._directory = start_directory(self._placement.gateway_id)
        await_directory(self._directory, _START_PATIENCE_S)

    def _deploy(self, deployed: DeployedModel) -> None:
        placement, spec = self._placement, deployed.spec
        config = ReplicaConfig(
            gateway_id=placement.gateway_id,
            deployed=deployed,
            token=placement.token,
            crossfade_version=placement.crossfade_version,
            socket_dir=placement.socket_dir,
            cache_dir=placement.cache_dir,
        )
        actor_options: dict[str, Any] = {"num_cpus": spec.resources.cpu, "num_gpus": spec.resources.gpu}
        if spec.resources.memory_bytes:
            actor_options["memory"] = spec.resources.memory_bytes
        replica = cast(serve.Deployment, serve.deployment(self._replica_class)).options(
            name="replica",
            **_how_many(spec),
            ray_actor_options=actor_options,
            health_check_period_s=5,
            health_check_timeout_s=30,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=spec.request_settings.request_timeout_ms / 1000 + 20,
            max_constructor_retry_count=_CONSTRUCTOR_TRIES,
            # Serve's own versions are random per deploy, which would restart every replica when only their number
            # changes. There is no public way to say "same code" (ray-project/ray, serve/deployment.py).
            version=deployed.generation,
            _internal=True,
        )
        serve.run_many(
            [
                serve.RunTarget(
                    target=replica.bind(config),
                    name=self._app_name(spec.endpoint, spec.name, deployed.generation),
                    route_prefix=None,
                    logging_config=LoggingConfig(logs_dir=placement.log_dir or None, enable_access_log=False),
                )
            ],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    def _running(self) -> tuple[RunningApp, ...]:
        apps = []
        for name, status in serve.status().applications.items():
            parts = app_parts(self._placement.gateway_id, name)
            if parts is None or status.status == "DELETING":
                continue
            trouble = "" if status.status in _HEALTHY else f"{status.status}: {status.message}"
            for part in status.deployments.values():
                if part.message and status.status != "RUNNING":
                    trouble = part.message
            apps.append(
                RunningApp(
                    *parts,
                    trouble,
                    has_failed=status.status == "DEPLOY_FAILED",
                    replicas_wanted=sum(map(_replicas_wanted, status.deployments.values())),
                )
            )
        return tuple(apps)

    def _app_name(self, endpoint: str, deployment: str, generation: str) -> str:
        return app_name(self._placement.gateway_id, endpoint, deployment, generation)

    async def _blocking(self, call: Callable[[], Result]) -> Result:
        return await self._translated(self._calls.run(call))

    async def _translated(self, outcome: Awaitable[Result]) -> Result:
        try:
            return await outcome
        except TimeoutError:
            raise RuntimeUnavailable(f"no answer within {_CALL_TIMEOUT_S:.0f} s") from None
        except (ray.exceptions.RayError, serve.exceptions.RayServeException, ConnectionError, RuntimeError) as error:
            raise RuntimeUnavailable(_first_line(error)) from error

    async def _ask(self, reference: Any, timeout_s: float = _ASK_TIMEOUT_S) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(reference.future())
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise RuntimeUnavailable(_first_line(error) or "the directory of replicas does not answer") from error


def _how_many(spec: Deployment) -> dict[str, Any]:
    if spec.scale_settings is None:
        return {"num_replicas": spec.instance_count}
    return {"autoscaling_config": autoscaling_config(spec.scale_settings)}


def _replicas_wanted(part: DeploymentStatusOverview) -> int:
    """Ray's status tells no target, but every replica that is wanted is in some state, waiting for a place included."""
    return sum(count for state, count in part.replica_states.items() if state != "STOPPING")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
