"""Deployment: one model version behind an Endpoint, as it is asked for, and together with its resolved model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import StrEnum

from router.domain.deployment_settings import Batching, Execution, Provider, RequestSettings, Resources
from router.domain.errors import Invalid
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.names import checked_name
from router.domain.scaling import ScaleSettings
from router.domain.triton import RunningTriton, TritonMode
from router.domain.triton_managed import ManagedTriton

_TRITON_EXAMPLE = "such as triton: {mode: managed}, or {mode: direct, servers: [{host: 10.0.0.7}], model: fraud}"


class Backend(StrEnum):
    ONNX = "onnx"
    TRITON = "triton"


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
            self._check_managed(self.managed)
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

    def _check_managed(self, managed: ManagedTriton) -> None:
        """Nothing is said that a Triton of our own would not heed."""
        if self.backend is not Backend.TRITON:
            raise Invalid("backend", f"{self.backend} does not go with the key 'triton'", "set backend: triton")
        if isinstance(self.model, RunningTriton):
            raise Invalid("triton.mode", "managed does not go with servers that run already", "use mode direct")
        if self.can_sleep:
            raise Invalid("scale_settings.min_instances", "0 is not possible with a managed Triton", "use 1 or more")
        if managed.model and self.reference.entry:
            raise Invalid(
                "triton.model",
                "the reference chooses a file of the model already, behind its '#'",
                "remove one of the two",
            )
        managed.check_batches(self.batching.max_batch_size)
        for key, is_given in (
            ("execution.options", bool(self.execution.options)),
            ("execution.spinning", self.execution.is_spinning),
            ("batching.padding_mask", bool(self.batching.padding_mask)),
            ("batching.latency_slo_ms", self.batching.latency_slo_ms is not None),
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


# What replicas, their directory and the control plane say to each other, which may run on in a Ray that outlives all of
# them. A build that says it otherwise has another number: it has a directory of its own and starts its own replicas.
REPLICA_PROTOCOL = 1


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
        object.__setattr__(self, "generation", hashlib.sha256(repr(self._facts()).encode()).hexdigest()[:8])

    def _facts(self) -> tuple[object, ...]:
        if (direct := self.direct) is not None:
            return (direct, *direct.secured_by)
        if (managed := self.spec.managed) is not None:
            return self._facts_of_tritons(managed)
        return self._facts_of_replicas()

    def _facts_of_tritons(self, managed: ManagedTriton) -> tuple[object, ...]:
        """Without what Envoy alone heeds: limits, and how clients call the version. A model that takes minutes to load,
        and the memory of a device, is not loaded beside itself for these."""
        spec = self.spec
        return (
            self.model_sha256,
            spec.backend,
            spec.resources,
            spec.execution,
            spec.batching.max_batch_size,
            spec.request_settings.request_timeout_ms,  # for so long a replica lets requests finish
            spec.scale_settings is not None,
            managed,
            spec.reference.entry,
        )

    def _facts_of_replicas(self) -> tuple[object, ...]:
        spec = self.spec
        facts: tuple[object, ...] = (
            self.model if isinstance(self.model, RunningTriton) else self.model.sha256,
            self.model_version,
            spec.backend,
            spec.resources,
            spec.execution,
            replace(spec.batching, latency_slo_ms=spec.batching.objective_ms),
            spec.request_settings,
            # A replica that runs begins to measure its load only when it starts, and knows when it is idle.
            spec.scale_settings is not None,
            spec.scale_settings.idle_timeout_s if spec.scale_settings and spec.can_sleep else None,
            REPLICA_PROTOCOL,
        )
        if spec.batching.latency_slo_ms is not None:
            facts = (*facts, "latency_slo_ms")  # refuses requests, which the same number does not where nobody set it
        if isinstance(self.model, RunningTriton):
            facts = (*facts, *self.model.secured_by)
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
