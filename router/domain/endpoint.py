"""Endpoint and Deployment: what an operator asks for. One Endpoint, the Deployments behind it, their settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from router.domain.errors import Conflict, Invalid, NotFound
from router.domain.limits import NO_LIMITS, Limits
from router.domain.listening import Clients, checked_network
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.names import RESERVED_ENDPOINT_NAMES, checked_client_name, checked_name
from router.domain.scaling import ScaleSettings
from router.domain.sticky import Sticky
from router.domain.tokens import TokenRules
from router.domain.traffic import Mirror, Traffic
from router.domain.triton import RunningTriton, TritonMode
from router.domain.triton_managed import ManagedTriton
from router.domain.watching import Watch

MIB = 1024 * 1024
MAX_REQUEST_BYTES = 1024 * MIB  # no deployment may accept more


_TRITON_EXAMPLE = "such as triton: {mode: managed}, or {mode: direct, servers: [{host: 10.0.0.7}], model: fraud}"


class AuthMode(StrEnum):
    NONE = "none"  # everybody
    KEY = "key"  # whoever shows one of its keys
    MTLS = "mtls"  # whoever shows a certificate with one of `client_names`
    JWT = "jwt"  # whoever shows a token after the rules in `jwt`


class Backend(StrEnum):
    ONNX = "onnx"
    TRITON = "triton"


class Provider(StrEnum):
    """What computes a model. `AUTO` follows the resources: a GPU when there is one, else the CPU."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica may use. `cpu` in cores, `gpu` in devices (fractions allowed), `memory_bytes` 0 = unlimited."""

    cpu: float = 1.0
    gpu: float = 0.0
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.cpu <= 1024:
            raise Invalid("resources.cpu", f"{self.cpu:g} is out of range", "use a number of cores above 0")
        for key, amount in (("cpu", self.cpu), ("gpu", self.gpu)):
            if round(amount, 4) != amount:  # Ray's resolution
                raise Invalid(f"resources.{key}", f"{amount:g} is too fine", "use at most four decimals")
        if not 0 <= self.gpu <= 64:
            raise Invalid("resources.gpu", f"{self.gpu:g} is out of range", "use 0 or a number of GPUs")
        if self.memory_bytes < 0:
            raise Invalid("resources.memory", "is negative", "use a size such as 512Mi or 1Gi")


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests may be joined. `max_batch_size` counts rows, not requests; 1 switches batching off.

    `latency_slo_ms`: the latency that is aimed at. `padding_mask`: the input that marks what is no padding; empty:
    requests of different lengths are not padded.
    """

    max_batch_size: int = 64
    latency_slo_ms: int = 50
    padding_mask: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch_size <= 65536:
            raise Invalid("batching.max_batch_size", f"{self.max_batch_size} is out of range", "use 1 to 65536 rows")
        if not 1 <= self.latency_slo_ms <= 600_000:
            raise Invalid("batching.latency_slo_ms", f"{self.latency_slo_ms} is out of range", "use 1 to 600000 ms")
        if len(self.padding_mask) > 200:
            raise Invalid("batching.padding_mask", "is too long", "name an input of the model, such as attention_mask")


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """Limits of a single request to one deployment."""

    request_timeout_ms: int = 5000
    max_concurrent_requests_per_instance: int = 1000
    max_request_bytes: int = 64 * MIB

    def __post_init__(self) -> None:
        if not 1 <= self.request_timeout_ms <= 3_600_000:
            raise Invalid("request_settings.request_timeout_ms", "is out of range", "use 1 to 3600000 ms")
        if not 1 <= self.max_concurrent_requests_per_instance <= 1_000_000:
            raise Invalid("request_settings.max_concurrent_requests_per_instance", "is out of range", "use 1 or more")
        if not 1024 <= self.max_request_bytes <= MAX_REQUEST_BYTES:
            raise Invalid("request_settings.max_request_size", "is out of range", "use 1Ki to 1Gi")


@dataclass(frozen=True, slots=True)
class Execution:
    """How a replica runs its model.

    `options` go to the provider as they are, sorted by name. `threads` for one instance, 0 = its share of the replica's
    cores. `is_spinning`: idle threads wait for work at full speed instead of sleeping.
    """

    provider: Provider = Provider.AUTO
    options: tuple[tuple[str, str], ...] = ()
    instances_per_replica: int = 1
    threads: int = 0
    is_spinning: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.instances_per_replica <= 64:
            raise Invalid("execution.instances_per_replica", "is out of range", "use 1 to 64")
        if not 0 <= self.threads <= 1024:
            raise Invalid("execution.threads", f"{self.threads} is out of range", "use 1 to 1024, or 0 for its share")
        if list(self.options) != sorted(dict(self.options).items()):
            raise Invalid("execution.options", "are not sorted by name, or one comes twice", "name every option once")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model version running behind an Endpoint.

    `model` is what replicas of ours load, or what runs elsewhere already. Where Envoy asks the latter itself there are
    no replicas, and `instance_count` only says whether it is asked at all.
    With `scale_settings`, these decide how many replicas run, and `instance_count` stays at its default.
    """

    name: str
    endpoint: str
    model: ModelRef | RunningTriton
    model_version: str = ""  # empty: the digest's first 12 hex digits, filled in when the model is resolved
    backend: Backend = Backend.ONNX
    instance_count: int = 1
    scale_settings: ScaleSettings | None = None
    resources: Resources = field(default_factory=Resources)
    execution: Execution = field(default_factory=Execution)
    batching: Batching = field(default_factory=Batching)
    request_settings: RequestSettings = field(default_factory=RequestSettings)
    golden_requests: tuple[str, ...] = ()  # files on this machine that a model is tried with before it is taken
    managed: ManagedTriton | None = None  # each replica runs `model` in a Triton of its own

    def __post_init__(self) -> None:
        checked_name("name", self.name)
        checked_name("endpoint", self.endpoint)
        if self.model_version:
            checked_name("model_version", self.model_version)
        if not 0 <= self.instance_count <= 1000:
            raise Invalid("instance_count", f"{self.instance_count} is out of range", "use 0 to 1000")
        if self.scale_settings is not None and self.instance_count != 1:
            raise Invalid("instance_count", "scale_settings decide how many replicas run", "remove one of the two")
        self._check_backend()
        self._check_execution()

    @property
    def is_elsewhere(self) -> bool:
        """Whether its model runs in servers that are not ours: there is nothing to fetch."""
        return isinstance(self.model, RunningTriton)

    @property
    def direct(self) -> RunningTriton | None:
        """The Tritons that Envoy asks itself, where there is no replica to start. None: replicas of ours answer."""
        return _asked_by_envoy(self.model)

    @property
    def reference(self) -> ModelRef:
        """Where its model comes from. Not to be asked of one that runs elsewhere."""
        assert isinstance(self.model, ModelRef)
        return self.model

    @property
    def provider(self) -> Provider:
        """`CPU`, `CUDA` or `TENSORRT`, never `AUTO`."""
        if self.execution.provider is not Provider.AUTO:
            return self.execution.provider
        return Provider.CUDA if self.resources.gpu > 0 else Provider.CPU

    @property
    def threads_per_instance(self) -> int:
        return self.execution.threads or max(1, int(self.resources.cpu / self.execution.instances_per_replica))

    @property
    def can_sleep(self) -> bool:
        """Whether no replica runs while nobody asks."""
        return self.scale_settings is not None and self.scale_settings.can_sleep

    @property
    def least_instances(self) -> int:
        """The fewest replicas that run, except while it sleeps. 0: it is stopped."""
        return self.instance_count if self.scale_settings is None else self.scale_settings.least_awake

    @property
    def most_instances(self) -> int:
        """The most replicas of ours that may run."""
        if self.direct is not None:
            return 0
        return self.instance_count if self.scale_settings is None else self.scale_settings.max_instances

    @property
    def most_answering(self) -> int:
        """How many share the requests at most: replicas, or servers that Envoy asks."""
        return self.most_instances if self.direct is None else len(self.direct.servers)

    def _check_backend(self) -> None:
        """Who runs the model, and that nothing is said about replicas that there are not."""
        if self.managed is not None:
            self._check_managed()
            return
        if not isinstance(self.model, RunningTriton):
            if self.backend is Backend.TRITON:
                raise Invalid("triton", "the key is missing, which says where Triton is", _TRITON_EXAMPLE)
            return
        if self.backend is not Backend.TRITON:
            raise Invalid("backend", f"{self.backend} does not go with the key 'triton'", "set backend: triton")
        tritons_own: tuple[tuple[str, object, object], ...] = (("execution", self.execution, Execution()),)
        if self.direct is None:
            tritons_own += (("resources.gpu", self.resources.gpu, 0.0),)
        elif self.instance_count > 1:
            raise Invalid("instance_count", "Triton runs elsewhere", "use 1, or 0 to send it nothing")
        else:
            tritons_own += (
                ("scale_settings", self.scale_settings, None),
                ("resources", self.resources, Resources()),
                ("batching", self.batching, Batching()),
            )
        for key, given, default in tritons_own:
            if given != default:
                raise Invalid(key, "is Triton's own matter here", "remove it, and set it in Triton's config.pbtxt")

    def _check_managed(self) -> None:
        """Nothing is said that a Triton of our own would not heed."""
        if self.backend is not Backend.TRITON:
            raise Invalid("backend", f"{self.backend} does not go with the key 'triton'", "set backend: triton")
        if isinstance(self.model, RunningTriton):
            raise Invalid("triton.mode", "managed does not go with servers that run already", "use mode direct")
        if self.can_sleep:
            raise Invalid("scale_settings.min_instances", "0 is not possible with a managed Triton", "use 1 or more")
        for key, is_given in (
            ("execution.options", bool(self.execution.options)),
            ("execution.spinning", self.execution.is_spinning),
            ("batching.padding_mask", bool(self.batching.padding_mask)),
        ):
            if is_given:
                raise Invalid(key, "means nothing to Triton", "remove it")

    def _check_execution(self) -> None:
        """Settings that are fine alone and contradict each other."""
        provider, resources, instances = self.provider, self.resources, self.execution.instances_per_replica
        if provider is Provider.CPU and resources.gpu > 0:
            raise Invalid(
                "execution.provider",
                f"'cpu' would leave the GPU unused that resources.gpu: {resources.gpu:g} reserves",
                "set resources.gpu to 0, or the provider to cuda",
            )
        if provider is not Provider.CPU and resources.gpu == 0:
            raise Invalid(
                "execution.provider",
                f"'{provider}' needs a GPU, and resources.gpu is 0",
                "set resources: {gpu: 1}, or a fraction to share one",
            )
        if resources.gpu > instances:
            raise Invalid(
                "resources.gpu",
                f"{resources.gpu:g} GPUs are more than {instances} instances in a replica can use",
                "an instance uses one GPU: set execution.instances_per_replica to as many, or use instance_count",
            )
        if provider is Provider.CPU and self.execution.options:
            raise Invalid("execution.options", "the provider cpu has none", "use threads and spinning, or remove them")
        if self.execution.is_spinning and resources.cpu != int(resources.cpu):
            raise Invalid(
                "execution.spinning",
                f"would take a whole core for {resources.cpu:g} of one",
                "set resources.cpu to a whole number, or spinning to false",
            )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The stable public name that clients call, and how its traffic is split."""

    name: str
    traffic: Traffic = field(default_factory=Traffic)
    mirror: Mirror | None = None
    auth_mode: AuthMode = AuthMode.NONE
    allow_anonymous: bool = False
    sticky: Sticky | None = None
    client_names: tuple[str, ...] = ()
    jwt: TokenRules | None = None
    group: str = ""  # the team that it belongs to; empty: nobody's in particular
    watch: Watch | None = None
    limits: Limits = NO_LIMITS
    allow_clients: tuple[str, ...] = ()  # networks, sorted; empty: everybody
    deny_clients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_name("name", self.name)
        if self.group:
            checked_name("group", self.group)
        self._check_clients()
        if self.name in RESERVED_ENDPOINT_NAMES:
            raise Invalid("name", f"{self.name!r} is reserved by the protocol", "choose another name")
        if self.mirror is not None and self.traffic.percent(self.mirror.deployment) > 0:
            raise Invalid(
                f"mirror_traffic.{self.mirror.deployment}",
                f"{self.mirror.deployment!r} already has live traffic",
                "mirror to a deployment whose traffic is 0",
            )

    @property
    def clients(self) -> Clients:
        """Whose requests are taken, by their address."""
        return Clients(self.allow_clients, self.deny_clients)

    def _check_clients(self) -> None:
        for key, networks in (("allow_clients", self.allow_clients), ("deny_clients", self.deny_clients)):
            for network in networks:
                checked_network(key, network)
        for name in self.client_names:
            checked_client_name("client_names", name)
        if self.auth_mode is AuthMode.MTLS and not self.client_names:
            raise Invalid(
                "client_names", "auth_mode mtls lets nobody in without them", "name the clients' certificates"
            )
        if self.client_names and self.auth_mode is not AuthMode.MTLS:
            raise Invalid("client_names", f"mean nothing to auth_mode {self.auth_mode}", "set auth_mode: mtls")
        if self.limits.per_caller is not None and self.auth_mode is AuthMode.NONE:
            message = "auth_mode none cannot tell callers apart"
            raise Invalid("limits.per_caller", message, "set another auth_mode, or limit all of them together")
        if self.auth_mode is AuthMode.JWT and self.jwt is None:
            raise Invalid("jwt", "auth_mode jwt lets nobody in without it", "say whose tokens are taken")
        if self.jwt is not None and self.auth_mode is not AuthMode.JWT:
            raise Invalid("jwt", f"means nothing to auth_mode {self.auth_mode}", "set auth_mode: jwt")


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A deployment together with the immutable model that its reference was resolved to, or what runs elsewhere.

    `generation` changes exactly when running replicas no longer match and new ones must be started. It is worked out
    once, here: every replica is compared with it, whenever anybody asks how things are.
    """

    spec: Deployment
    model: ResolvedModel | RunningTriton
    generation: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        facts: tuple[object, ...] = (self.model,)
        if self.direct is None:
            facts = self._facts_of_replicas()
        elif self.direct.tls is not None:
            facts = (self.direct, self.direct.tls)
        object.__setattr__(self, "generation", hashlib.sha256(repr(facts).encode()).hexdigest()[:8])

    def _facts_of_replicas(self) -> tuple[object, ...]:
        spec = self.spec
        facts: tuple[object, ...] = (
            self.model if isinstance(self.model, RunningTriton) else self.model.sha256,
            self.model_version,
            spec.backend,
            spec.resources,
            spec.execution,
            spec.batching,
            spec.request_settings,
            # A replica that runs begins to measure its load only when it starts, and knows when it is idle.
            spec.scale_settings is not None,
            spec.scale_settings.idle_timeout_s if spec.scale_settings and spec.can_sleep else None,
        )
        if spec.managed is not None:
            facts = (*facts, spec.managed)
        entry = spec.model.entry if isinstance(spec.model, ModelRef) else ""
        return (*facts, entry) if entry else facts  # another file of the same model

    @property
    def direct(self) -> RunningTriton | None:
        """See `Deployment`."""
        return _asked_by_envoy(self.model)

    @property
    def model_version(self) -> str:
        own = self.model.version_name if isinstance(self.model, RunningTriton) else self.model.short_digest
        return self.spec.model_version or own

    @property
    def content(self) -> ResolvedModel:
        """The model's files. Not to be asked of one that runs elsewhere."""
        assert isinstance(self.model, ResolvedModel)
        return self.model

    @property
    def model_sha256(self) -> str:
        """Of the model's content; empty where the content is Triton's."""
        return "" if isinstance(self.model, RunningTriton) else self.model.sha256


def _asked_by_envoy(model: object) -> RunningTriton | None:
    return model if isinstance(model, RunningTriton) and model.mode is TritonMode.DIRECT else None


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An endpoint, everything behind it, and the revision that counts its changes: the unit that is stored whole."""

    endpoint: Endpoint
    deployments: Mapping[str, DeployedModel] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = 0

    def __post_init__(self) -> None:
        named = self.endpoint.traffic.deployments
        if self.endpoint.mirror is not None:
            named |= {self.endpoint.mirror.deployment}
        for name in sorted(named - self.deployments.keys()):
            raise Invalid(
                f"traffic.{name}",
                f"endpoint {self.endpoint.name!r} has no deployment {name!r}",
                f"it has {', '.join(sorted(self.deployments)) or 'none yet'}",
            )

    def deployment(self, name: str) -> DeployedModel:
        try:
            return self.deployments[name]
        except KeyError:
            raise NotFound("deployment", name, tuple(sorted(self.deployments))) from None

    def with_endpoint(self, endpoint: Endpoint) -> EndpointState:
        return replace(self, endpoint=endpoint)

    def with_deployment(self, deployed: DeployedModel) -> EndpointState:
        return replace(self, deployments=MappingProxyType({**self.deployments, deployed.spec.name: deployed}))

    def without_deployment(self, name: str) -> EndpointState:
        """Raises `NotFound`, or `Conflict` while the deployment has live or mirrored traffic."""
        self.deployment(name)
        percent = self.endpoint.traffic.percent(name)
        if percent:
            raise Conflict(f"deployment {name!r} has {percent}% of the traffic: move it away first")
        if self.endpoint.mirror is not None and self.endpoint.mirror.deployment == name:
            raise Conflict(f"deployment {name!r} gets mirrored traffic: remove the mirror first")
        rest = {key: value for key, value in self.deployments.items() if key != name}
        return replace(self, deployments=MappingProxyType(rest))
