"""The control plane process: where its parts are put together. The supervisor starts it: `python -m router.app CONFIG`.

Ray is imported last and in a thread: after a crash, Envoy and the admin API have their control plane back in about a
second, long before Ray is reached again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import uvicorn
import uvloop

from adapters.certificates import PemFiles
from adapters.commands import CommandSampler
from adapters.http_exchange import HttpExchange
from adapters.local_models import FileModels, PackageModels
from adapters.lookout import ConnectionLookout
from adapters.model_sources import ModelSources
from adapters.prometheus import PrometheusSampler
from adapters.ray.logs import ReplicaLogs
from adapters.replica_answers import ReplicaAnswers
from adapters.sqlite_access import SqliteAccess
from adapters.sqlite_keys import SqliteKeys
from adapters.sqlite_store import SqliteStore
from adapters.webhooks import Webhooks, WebhookSampler
from router.access import Access
from router.admin_ports import Addresses, GatewayInfo, RayStatus
from router.agreement.collector import Agreement
from router.agreement.metrics import agreement_metrics
from router.api import create_app
from router.api.oversight import Oversight
from router.certificates import Certificates, certificate_metrics
from router.commits import Commits
from router.config import EXIT_HOPELESS, EXIT_RAY_LOST, LOOPBACK, GatewayConfig, kept_secret, reachable
from router.desired import Desired
from router.domain.errors import Invalid, StoreFailed
from router.domain.sources import CommandOutput, PrometheusQuery, WebhookAnswer
from router.events import EventLog
from router.keys import Keys
from router.measuring import Measurer
from router.metrics import MetricsPage, gateway_metrics
from router.operations import Operations
from router.plan import Rules
from router.ports import Runtime
from router.quotas import Quotas
from router.reconciler import Reconciler
from router.replica_metrics import ReplicaMetrics
from router.rollout_ports import Entry
from router.rollouts.clock import SystemClock
from router.rollouts.course import Surroundings
from router.rollouts.engine import RolloutEngine
from router.rollouts.telling import Teller
from router.server_state import server_view
from router.telemetry import AttemptMeter
from router.version import VERSION
from router.vigil import Vigil
from router.waiting_room import WaitingRoom
from router.xds.gateway import Gateway
from router.xds.reports import reports_service
from router.xds.server import XdsServer
from serving.listener import Listener
from serving.protocol import server_handler

log = logging.getLogger("crossfade")

# How long followers of the event log have to read why the control plane starts again.
_LAST_WORDS_S = 0.3

_MAX_SERVER_BODY_BYTES = 1024 * 1024


class ControlPlane:
    """Everything in the process, started in the order that Envoy needs it."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.started_at = datetime.now(UTC)
        self.events = EventLog(lambda: datetime.now(UTC))
        self.store = SqliteStore(config.database)
        self.desired = Desired(self.store.load())
        self.xds = XdsServer(
            Gateway(
                bind=config.bind,
                http_port=config.ports.http,
                grpc_port=config.ports.grpc,
                token=config.gateway_token,
                access_log=str(config.access_log),
                server_socket=str(config.server_socket),
                tls=config.tls,
                redirect_port=config.ports.redirect_http,
            )
        )
        self.certificates = Certificates(config.tls, PemFiles(), self.xds, self.events) if config.tls else None
        self.meter = AttemptMeter()
        self.waiting_room = WaitingRoom(config.waiting_room_dir, config.gateway_token)
        self.reconciler = Reconciler(
            self.desired, self.xds, self.store, self.events, config.ray_address, self.waiting_room
        )
        commits = Commits(self.desired, self.store, self.reconciler, self.events)
        self.agreement = Agreement(
            ReplicaAnswers(config.gateway_token),
            lambda: self.reconciler.replicas,
            lambda endpoint: endpoint in self.desired.states,
        )
        self.http = HttpExchange()
        self.webhooks = Webhooks(self._told, self.store, self.http, self.events)
        self.rollouts = RolloutEngine(
            Surroundings(
                store=self.store,
                commits=commits,
                reconciling=self.reconciler,
                meter=self.meter,
                comparer=self.agreement,
                measures=_measurer(self.http),
                teller=Teller(self.events, self.webhooks),
                clock=SystemClock(),
            )
        )
        access = SqliteAccess(self.store)
        quotas = Quotas(access, self.desired, self.events)
        self.oversight = Oversight(
            Access(kept_secret(config.admin_token_file), access, self.events.now), quotas, access
        )
        self.operations = Operations(
            commits,
            ModelSources({"file": FileModels(), "package": PackageModels()}),
            self.reconciler,
            self.rollouts,
            quotas,
            Rules(not config.is_loopback, config.tls is not None and config.tls.has_client_ca),
        )
        self.keys = Keys(commits, SqliteKeys(self.store), self.reconciler, self.xds)
        replica_metrics = ReplicaMetrics(config.gateway_token, lambda: self.reconciler.replicas)
        self.metrics = MetricsPage(str(config.envoy_admin_socket), self._own_metrics, replica_metrics.gather)

    async def run(self) -> int:
        """Serve until SIGINT, or until Ray is lost. Returns the exit code."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        config = self.config
        server_calls = Listener(
            server_handler(lambda: server_view(VERSION, self.desired.states.values(), self.reconciler.replicas)),
            token=b"",
            max_body_bytes=_MAX_SERVER_BODY_BYTES,
        )
        metrics = Listener(self.metrics.handler(), token=b"", max_body_bytes=_MAX_SERVER_BODY_BYTES)
        await server_calls.open_unix(str(config.server_socket))
        if self.certificates is not None:
            self.certificates.look()
        await self.reconciler.start_routing()
        await self.xds.start(str(config.xds_socket), reports_service(self.meter.take))
        self.xds.release()
        await metrics.open_tcp(config.bind, config.ports.metrics)
        admin = uvicorn.Server(
            uvicorn.Config(
                create_app(
                    self.operations,
                    self.rollouts,
                    self.agreement,
                    self,
                    ReplicaLogs(config.replica_log_dir, config.gateway_id),
                    self.oversight,
                    self.keys,
                ),
                host=LOOPBACK,
                port=config.ports.admin,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        serving = _named(admin.serve(), "admin API")
        reconciling = _named(self._run_reconciler(), "reconciler")
        rolling = _named(self.rollouts.run(), "rollouts")
        telling = _named(self.webhooks.run(), "webhooks")
        comparing = _named(self.agreement.run(), "agreement")
        needed = {rolling, comparing}
        if self.certificates is not None:
            needed.add(_named(self.certificates.run(), "certificates"))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({serving, reconciling, stopped, *needed}, return_when=asyncio.FIRST_COMPLETED)
        code = 0
        for background in needed:
            if background.done():
                background.result()
        if reconciling.done():
            # Ray was lost. Its client in this process would ask the lost cluster for ever; a new process is back in
            # two seconds, and nobody who scores notices.
            reconciling.result()
            code = EXIT_RAY_LOST
            await asyncio.sleep(_LAST_WORDS_S)
        admin.should_exit = True
        reconciling.cancel()
        for background in (telling, *needed):
            background.cancel()
        await asyncio.gather(serving, reconciling, telling, *needed, return_exceptions=True)
        await self.http.close()
        self.reconciler.close()
        await self.waiting_room.close()
        await self.metrics.close()
        await metrics.close(grace_s=0.2)
        await server_calls.close(grace_s=0.2)
        await self.xds.stop()
        self.store.close()
        return code

    def info(self) -> GatewayInfo:
        """Implements `router.admin_ports.Gateway`."""
        config = self.config
        return GatewayInfo(
            version=VERSION,
            started_at=self.started_at,
            addresses=Addresses(
                scoring_url=config.scoring_url,
                grpc_address=f"{reachable(config.bind)}:{config.ports.grpc}",
                metrics_url=config.metrics_url,
                admin_url=config.admin_url,
            ),
            proxies=self.xds.proxies(),
            ray=self._ray_status(),
            certificates=self.certificates.status() if self.certificates else (),
        )

    def _told(self, entry: Entry) -> tuple[str, ...]:
        """The URLs that are told of what a rollout does."""
        rollouts = self.desired.rollouts(entry.endpoint)
        return next((rollout.policy.notify for rollout in rollouts if rollout.id == entry.rollout_id), ())

    def _ray_status(self) -> RayStatus:
        return self.reconciler.ray_status()

    async def _run_reconciler(self) -> None:
        runtime = await asyncio.to_thread(_runtime, self.config)
        await self.reconciler.run(runtime, Vigil(ConnectionLookout(), self.desired.is_rolling, SystemClock()))

    def _own_metrics(self) -> str:
        gateway = gateway_metrics(
            VERSION,
            self.desired.states.values(),
            self.reconciler.endpoint_status,
            self.reconciler.replicas,
            self.xds.proxies(),
            self._ray_status().is_connected,
        )
        certificates = certificate_metrics(self.certificates.status()) if self.certificates else ""
        return gateway + certificates + agreement_metrics(self.agreement.all_pairs())


def _measurer(http: HttpExchange) -> Measurer:
    return Measurer(
        {PrometheusQuery: PrometheusSampler(http), CommandOutput: CommandSampler(), WebhookAnswer: WebhookSampler(http)}
    )


def _runtime(config: GatewayConfig) -> Runtime:
    """Imports Ray, which takes seconds."""
    from adapters.ray.runtime import RayRuntime, ReplicaPlacement
    from serving.app import ReplicaActor

    placement = ReplicaPlacement(
        gateway_id=config.gateway_id,
        token=config.gateway_token,
        crossfade_version=VERSION,
        socket_dir=str(config.replica_dir) if config.is_ray_ours else "",
        log_dir=str(config.replica_log_dir) if config.is_ray_ours else "",
        cache_dir=str(config.replica_cache_dir) if config.is_ray_ours else "",
    )
    return RayRuntime(config.ray_address, placement, ReplicaActor)


def _named(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.create_task(coroutine, name=name)


def main() -> None:
    config = GatewayConfig.read(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        control_plane = ControlPlane(config)
    except (StoreFailed, Invalid) as error:
        print(error, file=sys.stderr)  # the supervisor shows the last line of this log
        sys.exit(EXIT_HOPELESS)
    code = 1
    try:
        code = uvloop.run(control_plane.run())
    except BaseException:
        log.exception("the control plane failed")
    finally:
        logging.shutdown()
        os._exit(code)  # Ray's own farewell, and its threads, can hang on a cluster that is gone


if __name__ == "__main__":
    main()
