"""The larger parts of the control plane, put together out of adapters for `router/app.py`."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adapters.candidate_files import CandidateFiles
from adapters.certificates import PemFiles
from adapters.commands import CommandSampler
from adapters.http_exchange import HttpExchange
from adapters.http_registry import HttpModels
from adapters.huggingface_registry import HuggingFaceModels
from adapters.internal_authority import InternalAuthority
from adapters.local_models import FileSource, PackageSource
from adapters.mlflow import MlflowModels
from adapters.model_signatures import KeyVerifier
from adapters.model_sources import ModelSources
from adapters.onnx.trial_process import TrialProcess
from adapters.prometheus import PrometheusSampler
from adapters.registries.cloud import CloudModels
from adapters.registries.docker_credentials import DockerCredentials
from adapters.registries.oci import OciModels
from adapters.tls_client import LiveClientContext
from adapters.tls_server import LiveContext
from adapters.triton_config import TritonConfigs
from adapters.webhooks import WebhookSampler
from router.certificates import Certificates
from router.config import GatewayConfig, OwnPort
from router.domain.endpoint import EndpointState
from router.domain.replica_tls import CertificateRequest, Certified, Declined
from router.domain.sources import CommandOutput, PrometheusQuery, WebhookAnswer
from router.domain.tls import CertificateStatus
from router.events import EventLog
from router.measuring import Measurer
from router.models.admission import AdmissionRules, Eyes, ModelAdmission
from router.models.ports import Admission, Source, Transport
from router.models.settings import RegistrySettings
from router.ports import Runtime
from router.replica_certificates import ReplicaCertificates
from router.replica_client import ReplicaClient
from router.version import VERSION
from router.xds.server import XdsServer

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class LiveTls:
    """Of one of the control plane's own ports. None, and nothing to look after: it speaks plain text."""

    context: ssl.SSLContext | None = None
    certificates: tuple[Certificates, ...] = ()


def live_tls(port: OwnPort, events: EventLog) -> LiveTls:
    if port.tls is None:
        return LiveTls()
    tls = port.tls
    live = LiveContext(
        tls.certificates[0].certificate, verifies_clients=tls.has_client_ca, checks_revocations=bool(tls.client_crl)
    )
    return LiveTls(live.context, (Certificates(port.tls, PemFiles(), live, events),))


def measurer_over(http: HttpExchange) -> Measurer:
    return Measurer(
        {PrometheusQuery: PrometheusSampler(http), CommandOutput: CommandSampler(), WebhookAnswer: WebhookSampler(http)}
    )


def model_sources(config: GatewayConfig, settings: RegistrySettings, transport: Transport) -> Source:
    """Every place that models come from, by the scheme of the references."""
    docker = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json")
    urls, cloud = HttpModels(transport), CloudModels(transport, settings)
    clouds = dict.fromkeys(("s3", "gs", "az", "abfss"), cloud)
    return ModelSources(
        {
            "file": FileSource(),
            "package": PackageSource(),
            "https": urls,
            "http": urls,
            "models": MlflowModels(transport, settings, {"https": urls, **clouds}),
            "hf": HuggingFaceModels(transport, settings),
            "oci": OciModels(transport, settings, DockerCredentials(docker), config.models_dir / "spool"),
            **clouds,
        }
    )


def admission(settings: RegistrySettings) -> Admission:
    """The gate before traffic."""
    rules = AdmissionRules(
        policy=settings.signatures.policy,
        sizes=settings.limits,
        allow_python_models=settings.allow_python_models,
    )
    verifier = KeyVerifier(settings.signatures.keys)
    return ModelAdmission(rules, Eyes(CandidateFiles(), TritonConfigs(), verifier, TrialProcess()))


@dataclass(frozen=True, slots=True)
class ReplicaTls:
    """To replicas on other hosts. `certificates` None: there are none, and no internal CA is made."""

    client: ReplicaClient
    certificates: ReplicaCertificates | None
    authority: InternalAuthority | None

    @property
    def status(self) -> tuple[CertificateStatus, ...]:
        return self.authority.status if self.authority else ()

    def certify(self, request: CertificateRequest) -> Certified | Declined:
        return self.certificates.answer(request) if self.certificates else Declined("no replica is on another host")


def replica_tls(config: GatewayConfig, xds: XdsServer, states: Mapping[str, EndpointState], now: Clock) -> ReplicaTls:
    """Raises `BadCertificate` when the internal CA is broken."""
    live = LiveClientContext()
    client = ReplicaClient(config.gateway_token, live.context)
    if config.is_ray_ours:
        return ReplicaTls(client, None, None)
    authority = InternalAuthority.in_folder(config.internal_ca_dir, config.gateway_id, now())
    certificates = ReplicaCertificates(authority, (xds, live), states, now)
    return ReplicaTls(client, certificates, authority)


def runtime_of(config: GatewayConfig, tls: ReplicaTls) -> Runtime:
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
    return RayRuntime(config.ray_address, placement, ReplicaActor, tls.certify)
