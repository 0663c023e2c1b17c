"""The control plane process: where its parts are put together. The supervisor starts it: `python -m router.app CONFIG`.

Ray is imported last and in a thread: after a crash, Envoy and the admin API have their control plane back in about a
second, long before Ray is reached again.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any

import uvloop

from adapters.certificates import PemFiles
from adapters.http_exchange import HttpExchange
from adapters.key_sets import ProviderKeys
from adapters.known_authorities import KnownAuthorities
from adapters.lookout import ConnectionLookout
from adapters.model_archives import ArchiveDisk
from adapters.model_cache import ModelCache
from adapters.model_records import ModelRecords
from adapters.peer_certificates import PeerCertificates
from adapters.ray.logs import ReplicaLogs
from adapters.replica_answers import ReplicaAnswers
from adapters.sqlite_access import SqliteAccess
from adapters.sqlite_key_sets import SqliteKeySets
from adapters.sqlite_keys import SqliteKeys
from adapters.sqlite_store import SqliteStore
from adapters.sqlite_watches import SqliteWatches
from adapters.transport import HttpTransport
from adapters.triton.readiness import TritonReadiness
from adapters.triton.statistics import TritonStatisticsClient
from adapters.triton.tokens import TokenFiles
from adapters.webhooks import Webhooks
from router.access import Access
from router.admin_ports import Addresses, GatewayInfo
from router.admin_server import AdminServer
from router.agreement.collector import Agreement
from router.agreement.metrics import agreement_metrics
from router.api import Services, create_app
from router.api.oversight import Oversight
from router.assembly import admission, live_tls, measurer_over, model_sources, replica_tls, runtime_of
from router.certificates import Certificates, certificate_metrics, status_by_file
from router.commits import Commits
from router.config import EXIT_HOPELESS, EXIT_RAY_LOST, GatewayConfig, kept_secret, reachable, scoring_url
from router.desired import Desired
from router.domain.errors import Invalid, StoreFailed
from router.domain.listening import nearest
from router.domain.tls import BadCertificate, CertificateStatus
from router.events import EventLog
from router.key_sets import KeySets, key_set_metrics
from router.keys import Keys
from router.metrics import MetricsPage, gateway_metrics
from router.models.approving import GatedModels
from router.models.auditing import AuditedRecords
from router.models.catalogue import Catalogue
from router.models.freshness import Freshness
from router.models.metrics import freshness_metrics
from router.models.pulling import Pulling
from router.models.pulls import Pulls
from router.models.recovery import Recovery
from router.models.settings_file import settings_in
from router.models.supply import CachedSupply
from router.models.transfer import Transfer
from router.models.watch_metrics import watch_metrics
from router.models.watcher import Watcher, WatchSurroundings
from router.operations import Operations
from router.quotas import Quotas
from router.ray_membership import RayMembership
from router.reconciler import Reconciler
from router.replica_metrics import ReplicaMetrics
from router.rollout_ports import Entry
from router.rollouts.clock import SystemClock
from router.rollouts.course import Surroundings
from router.rollouts.engine import RolloutEngine
from router.rollouts.telling import Teller
from router.server_state import server_calls, server_view, visible_at
from router.spec import SpecProblems
from router.telemetry import AttemptMeter
from router.triton_certificates import TritonCertificates
from router.triton_reports import TritonReports, triton_metrics
from router.triton_tokens import TritonTokens
from router.tritons import Tritons
from router.version import VERSION
from router.vigil import Vigil
from router.waiting_room import WaitingRoom
from router.xds.gateway import Gateway
from router.xds.reports import reports_service
from router.xds.server import XdsServer
from router.xds.stream_watch_service import StreamWatch
from serving.listener import Listener
from serving.server_view import ServerView

log = logging.getLogger("crossfade")

# How long followers of the event log have to read why the control plane starts again.
_LAST_WORDS_S = 0.3

_MAX_SERVER_BODY_BYTES = 1024 * 1024


class ControlPlane:
    """Everything in the process, started in the order that Envoy needs it."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.started_at = _now()
        self.events = EventLog(_now)
        self.store = SqliteStore(config.database)
        self.desired = Desired(self.store.load(), gateway=self.store.load_gateway())
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
                trust_domain="" if config.is_ray_ours else config.gateway_id,
            ),
            StreamWatch(PeerCertificates(), KnownAuthorities(config.known_authorities), _now),
        )
        self.replica_tls = replica_tls(config, self.xds, self.desired.states, _now)
        self.admin_tls, self.metrics_tls = (live_tls(port, self.events) for port in (config.admin, config.metrics))
        scoring = (Certificates(config.tls, PemFiles(), self.xds, self.events),) if config.tls else ()
        self.certificates = (*scoring, *self.admin_tls.certificates, *self.metrics_tls.certificates)
        self.meter = AttemptMeter()
        self.waiting_room = WaitingRoom(config.waiting_room_dir, config.gateway_token)
        self.reconciler = Reconciler(
            self.desired, self.xds, self.store, self.events, config.ray_address, self.waiting_room
        )
        self.triton_readiness = TritonReadiness()
        self.triton_certificates = TritonCertificates(PemFiles(), self.xds, self.events)
        self.tritons = Tritons(
            self.desired.states,
            self.triton_readiness,
            self.triton_certificates,
            TritonTokens(TokenFiles(), self.xds, self.events),
            self.reconciler.note_tritons,
        )
        self.triton_statistics = TritonStatisticsClient()
        self.triton_reports = TritonReports(
            self.desired.states, lambda: self.reconciler.replicas, self.triton_statistics
        )
        commits = Commits(self.desired, self.store, self.reconciler, self.events)
        self.agreement = Agreement(
            ReplicaAnswers(self.replica_tls.client),
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
                measures=measurer_over(self.http),
                teller=Teller(self.events, self.webhooks),
                clock=SystemClock(),
            )
        )
        access = SqliteAccess(self.store)
        quotas = Quotas(access, self.desired, self.events)
        self.oversight = Oversight(
            Access(kept_secret(config.admin_token_file), access, self.events.now), quotas, access
        )
        registries = settings_in(config.registries_file, is_required=bool(config.registries))
        self.transport = HttpTransport(registries)
        self.pulling = Pulling(
            model_sources(config, registries, self.transport),
            ModelCache(config.models_dir, registries.limits),
            AuditedRecords(ModelRecords(config.model_records), access),
            Freshness(),
            _now,
        )
        self.catalogue = Catalogue(self.pulling, Pulls(self.pulling, self.events, _now), self.desired, self.events)
        self.transfer = Transfer(
            self.pulling, self.catalogue, ArchiveDisk(config.models_dir / "archives"), registries.limits
        )
        self.recovery = Recovery(commits, self.reconciler, self.pulling, _now)
        gate = GatedModels(self.pulling, admission(registries), _now)
        self.operations = Operations(
            commits,
            gate,
            self.reconciler,
            self.rollouts,
            quotas,
            config.premises,
        )
        self.watcher = Watcher(
            WatchSurroundings(
                supply=CachedSupply(self.pulling, gate),
                store=SqliteWatches(self.store),
                operations=self.operations,
                rollouts=self.rollouts,
                events=self.events,
                hears=self.webhooks,
                clock=SystemClock(),
                gateway=config.gateway_id,
            )
        )
        self.keys = Keys(commits, SqliteKeys(self.store), self.reconciler, self.xds)
        self.key_sets = KeySets(
            self.desired, ProviderKeys(self.transport), SqliteKeySets(self.store), self.reconciler, self.events
        )
        replica_metrics = ReplicaMetrics(self.replica_tls.client, lambda: self.reconciler.replicas)
        self.ray = RayMembership(partial(runtime_of, config, self.replica_tls), config.is_ray_ours)
        self.metrics = MetricsPage(str(config.envoy_admin_socket), self._own_metrics, replica_metrics.gather)

    async def run(self) -> int:
        """Serve until SIGINT, or until Ray is lost. Returns the exit code."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        config = self.config
        about_server = Listener(
            server_calls(self._view),
            token=b"",
            max_body_bytes=_MAX_SERVER_BODY_BYTES,
        )
        metrics = Listener(self.metrics.handler(), token=b"", max_body_bytes=_MAX_SERVER_BODY_BYTES)
        await about_server.open_unix(str(config.server_socket))
        for certificates in self.certificates:
            certificates.look()
        if (of_replicas := self.replica_tls.certificates) is not None:
            of_replicas.look()
        self.tritons.look_at_files(self.tritons.wanted().values())
        await self.reconciler.start_routing()
        self.tritons.restore(self.reconciler.tritons)
        await self.xds.start(str(config.xds_socket), reports_service(self.meter.take))
        self.xds.release()
        await metrics.open_tcp(config.metrics.bind, config.ports.metrics, self.metrics_tls.context)
        admin = AdminServer(create_app(self._services()), config, self.admin_tls.context)
        serving = _named(admin.serve(), "admin API")
        reconciling = _named(self._run_reconciler(), "reconciler")
        rolling = _named(self.rollouts.run(), "rollouts")
        telling = _named(self.webhooks.run(), "webhooks")
        comparing = _named(self.agreement.run(), "agreement")
        recovering = _named(self.recovery.run(), "recovery of models")
        asking = _named(self.tritons.run(self.reconciler.status_changed), "tritons")
        watching = _named(self.watcher.run(), "watcher")
        counting = _named(self.triton_reports.run(), "statistics of tritons")
        trusting = _named(self.key_sets.run(), "key sets")
        vital = {rolling, comparing, asking, watching, counting, trusting}
        vital.update(_named(certificates.run(), "certificates") for certificates in self.certificates)
        if of_replicas is not None:
            vital.add(_named(of_replicas.run(), "certificates of replicas"))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({serving, reconciling, *vital, stopped}, return_when=asyncio.FIRST_COMPLETED)
        code = 0
        for background in vital:
            if background.done():
                background.result()
        if reconciling.done():
            # Ray was lost. Its client in this process would ask the lost cluster for ever; a new process is back in
            # two seconds, and nobody who scores notices.
            reconciling.result()
            code = EXIT_RAY_LOST
            await asyncio.sleep(_LAST_WORDS_S)
        admin.stop()
        reconciling.cancel()
        behind = (*vital, telling, recovering)
        for background in behind:
            background.cancel()
        await asyncio.gather(serving, reconciling, *behind, return_exceptions=True)
        if code == 0:
            await self.ray.leave()
        await self.catalogue.pulls.close()
        await self.transport.close()
        await self.http.close()
        await self.triton_readiness.close()
        await self.triton_statistics.close()
        self.reconciler.close()
        await self.waiting_room.close()
        await self.metrics.close()
        await metrics.close(grace_s=0.2)
        await about_server.close(grace_s=0.2)
        await self.xds.stop()
        self.store.close()
        return code

    def _view(self, listener: str) -> ServerView:
        visible = visible_at(listener, self.desired.offers)
        return server_view(VERSION, self.desired.states.values(), self.reconciler.replicas, visible)

    def _services(self) -> Services:
        config = self.config
        return Services(
            operations=self.operations,
            rollouts=self.rollouts,
            comparer=self.agreement,
            catalogue=self.catalogue,
            gateway=self,
            logs=ReplicaLogs(config.replica_log_dir, config.gateway_id),
            oversight=self.oversight,
            watching=self.watcher,
            transfer=self.transfer,
            keys=self.keys,
            tritons=self.triton_reports,
        )

    def info(self) -> GatewayInfo:
        """Implements `router.admin_ports.Gateway`."""
        config = self.config
        offer = nearest(self.desired.offers)
        return GatewayInfo(
            version=VERSION,
            started_at=self.started_at,
            addresses=Addresses(
                scoring_url=scoring_url(offer),
                grpc_address=f"{reachable(offer.address)}:{offer.ports[-1]}",
                metrics_url=config.metrics_url,
                admin_url=config.admin_url,
            ),
            proxies=self.xds.proxies(),
            ray=self.reconciler.ray_status(),
            certificates=self._certificate_status(),
            key_sets=self.key_sets.status(),
            offers=self.desired.offers,
        )

    def _told(self, entry: Entry) -> tuple[str, ...]:
        """The URLs that are told of what a rollout does."""
        rollouts = self.desired.rollouts(entry.endpoint)
        return next((rollout.policy.notify for rollout in rollouts if rollout.id == entry.rollout_id), ())

    def _certificate_status(self) -> tuple[CertificateStatus, ...]:
        return (*status_by_file(self.certificates), *self.replica_tls.status)

    async def _run_reconciler(self) -> None:
        vigil = Vigil(ConnectionLookout(), self.desired.is_rolling, SystemClock())
        await self.reconciler.run(await self.ray.begin(), vigil)

    def _own_metrics(self) -> str:
        gateway = gateway_metrics(
            VERSION,
            self.desired.states.values(),
            self.reconciler.endpoint_status,
            self.reconciler.replicas,
            self.xds.proxies(),
            self.reconciler.ray_status().is_connected,
        )
        return "".join(
            (
                gateway,
                certificate_metrics((*self._certificate_status(), *self.triton_certificates.status())),
                key_set_metrics(self.key_sets.status()),
                agreement_metrics(self.agreement.all_pairs()),
                freshness_metrics(self.catalogue.asked()),
                watch_metrics(self.watcher.standings()),
                triton_metrics(self.triton_reports.all()),
            )
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _named(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    return asyncio.create_task(coroutine, name=name)


def _log_our_own() -> None:
    """Libraries say what goes wrong, and no more: HTTP clients log every URL, and a webhook's may be a secret."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("adapters", "crossfade", "router", "serving"):
        logging.getLogger(name).setLevel(logging.INFO)


def main() -> None:
    config = GatewayConfig.read(sys.argv[1])
    _log_our_own()
    try:
        control_plane = ControlPlane(config)
    except (StoreFailed, Invalid, SpecProblems, BadCertificate) as error:
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
