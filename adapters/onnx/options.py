"""What a backend is asked for. Values only: nothing here knows ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.domain.deployment import DeployedModel
from router.domain.deployment_settings import Provider
from router.domain.model_ref import ResolvedModel


@dataclass(frozen=True, slots=True)
class CpuSettings:
    """`memory_bytes` is what the process may use in all, with `sessions` of this model in it; 0 is no limit."""

    threads: int = 1
    is_spinning: bool = False
    memory_bytes: int = 0
    sessions: int = 1


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """`provider` is CUDA or TENSORRT, `options` go to it as they are.

    `memory_share`: the part of the device's memory that this session may fill, 0 to 1. `device_id` counts the devices
    that the process may see: Ray hides the others.
    """

    provider: Provider = Provider.CUDA
    options: Mapping[str, str] = field(default_factory=dict)
    max_batch_size: int = 64
    memory_share: float = 1.0
    device_id: int = 0


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """`sha256`: 64 hex digits that the model must have: the file, or with a `folder` all that is in it.

    `gpu`: None runs on the CPU. `cache_dir`: where graphs and engines that were optimised for this machine are kept;
    empty: nowhere.
    """

    path: str
    sha256: str
    cpu: CpuSettings = field(default_factory=CpuSettings)
    gpu: GpuSettings | None = None
    cache_dir: str = ""
    folder: str = ""


def options_for(deployed: DeployedModel, cache_dir: str, instance: int = 0) -> OnnxOptions:
    """The options of one of a replica's instances, counted from 0: its share of what the replica may use.

    Instances are dealt out to the replica's GPUs, and those on the same one share its memory evenly.
    """
    spec = deployed.spec
    cpu = CpuSettings(
        spec.threads_per_instance,
        spec.execution.is_spinning,
        spec.resources.memory_bytes,
        spec.execution.instances_per_replica,
    )
    gpu = None
    if spec.provider is not Provider.CPU:
        devices = max(1, int(spec.resources.gpu))
        instances_on_one = -(-spec.execution.instances_per_replica // devices)
        gpu = GpuSettings(
            spec.provider,
            dict(spec.execution.options),
            spec.batching.max_batch_size,
            min(1.0, spec.resources.gpu) / instances_on_one,
            instance % devices,
        )
    assert isinstance(deployed.model, ResolvedModel)  # what runs elsewhere gets no replica
    model = deployed.model
    return OnnxOptions(model.path, model.sha256, cpu, gpu, cache_dir, model.folder)
