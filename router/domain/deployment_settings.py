"""How one deployment runs: what a replica may use, how it computes and joins requests, what a request may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from router.domain.errors import Invalid

MIB = 1024 * 1024
MAX_REQUEST_BYTES = 1024 * MIB  # no deployment may accept more
USUAL_OBJECTIVE_MS = 50  # where none is set


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

    `latency_slo_ms`: the latency within which requests are to be answered, or, when more come than can be, refused.
    None: no such bound; `objective_ms` is only aimed at. `padding_mask`: the input that marks what is no padding;
    empty: requests of different lengths are not padded.
    """

    max_batch_size: int = 64
    latency_slo_ms: int | None = None
    padding_mask: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch_size <= 65536:
            raise Invalid("batching.max_batch_size", f"{self.max_batch_size} is out of range", "use 1 to 65536 rows")
        if self.latency_slo_ms is not None and not 1 <= self.latency_slo_ms <= 600_000:
            raise Invalid("batching.latency_slo_ms", f"{self.latency_slo_ms} is out of range", "use 1 to 600000 ms")
        if len(self.padding_mask) > 200:
            raise Invalid("batching.padding_mask", "is too long", "name an input of the model, such as attention_mask")

    @property
    def objective_ms(self) -> int:
        """The latency that orders the queue."""
        return USUAL_OBJECTIVE_MS if self.latency_slo_ms is None else self.latency_slo_ms


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
