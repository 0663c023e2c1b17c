"""What ONNX Runtime is asked to compute with: providers, their options, and words for those that are not there.

Decisions only; no ONNX Runtime, no device. https://onnxruntime.ai/docs/execution-providers/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.onnx.options import GpuSettings
from router.domain.deployment_settings import Provider
from router.domain.errors import ModelUnavailable
from serving.signature import Signature

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

ProviderRequest = tuple[str, dict[str, str]]

_NAMES = {Provider.CUDA: CUDA, Provider.TENSORRT: TENSORRT}
_GRAPHS = "enable_cuda_graph"
_PROFILES = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


@dataclass(frozen=True, slots=True)
class Gpu:
    """The device as planning needs it. `memory_bytes`: all that it has. `identity`: tells kinds of device apart."""

    memory_bytes: int
    identity: str
    id: int = 0


def check_installed(provider: Provider, available: Sequence[str]) -> None:
    """Raises `ModelUnavailable` when the installed ONNX Runtime was built without what is asked for."""
    if _NAMES[provider] not in available:
        raise ModelUnavailable(
            f"the deployment asks for a GPU with {provider}, but the installed ONNX Runtime has no {_NAMES[provider]}: "
            "install onnxruntime-gpu (Linux on x86-64) with Crossfade's extra `gpu`"
        )


def check_started(provider: Provider, started: Sequence[str]) -> None:
    """Raises `ModelUnavailable` when the session came up without the provider, which ONNX Runtime does in silence."""
    if _NAMES[provider] in started:
        return
    needs = "an NVIDIA driver and the CUDA and cuDNN libraries of Crossfade's extra `gpu`"
    if provider is Provider.TENSORRT:
        needs += ", and the TensorRT libraries (`tensorrt` on PyPI) of the version that this ONNX Runtime was built for"
    raise ModelUnavailable(
        f"the deployment asks for a GPU, but ONNX Runtime could not start {provider}: it needs {needs}"
    )


def cuda_request(settings: GpuSettings, gpu: Gpu, has_graphs: bool) -> list[ProviderRequest]:
    """CUDA, with the CPU behind it for the shape arithmetic that CUDA leaves to it. The spec's options win."""
    options = {
        "device_id": str(gpu.id),
        # The arena grows by what is needed; doubling, the default, would take memory that a neighbour could use.
        "arena_extend_strategy": "kSameAsRequested",
        # An exhaustive search, the default, repeats for every new batch size, inside a request.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if settings.memory_share < 1:
        options["gpu_mem_limit"] = str(int(gpu.memory_bytes * settings.memory_share))
    options |= settings.options
    options[_GRAPHS] = "1" if has_graphs else "0"
    return [(CUDA, options), (CPU, {})]


def wants_graphs(settings: GpuSettings) -> bool:
    """CUDA graphs are tried unless the spec says `enable_cuda_graph: false`."""
    is_off = settings.options.get(_GRAPHS, "1").lower() in ("0", "false")
    return settings.provider is Provider.CUDA and not is_off


def tensorrt_request(
    settings: GpuSettings, gpu: Gpu, signature: Signature | None, engine_dir: str
) -> list[ProviderRequest]:
    """TensorRT, and CUDA for what TensorRT does not take. `signature` may be None when the spec has the profiles.

    Without profiles a shape that was not seen before rebuilds the engine inside a request: 36 s, or minutes. Raises
    `ModelUnavailable` when they cannot be made up.
    """
    options = {"device_id": str(gpu.id)}
    if engine_dir:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": engine_dir,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": engine_dir,
        }
    if signature is not None:
        options |= profiles(signature, settings.max_batch_size)
    own = {name: value for name, value in settings.options.items() if name.startswith("trt_") or name == "device_id"}
    rest = {name: value for name, value in settings.options.items() if not name.startswith("trt_")}
    cuda = cuda_request(GpuSettings(Provider.CUDA, rest, settings.max_batch_size, settings.memory_share), gpu, False)
    return [(TENSORRT, options | own), *cuda]


def has_profiles(settings: GpuSettings) -> bool:
    return all(name in settings.options for name in _PROFILES)


def profiles(signature: Signature, max_batch_size: int) -> dict[str, str]:
    """The least, the likeliest and the largest shapes: `x:1x64`, inputs parted by commas. Tuned for the fullest batch.

    Empty when every axis is fixed. Raises `ModelUnavailable` when an axis other than the batch axis is free: what
    sizes it may have is not in the model.
    """
    first = 1 if signature.is_batchable else 0
    if not any(dim < 0 for spec in signature.inputs for dim in spec.shape):
        return {}
    for spec in signature.inputs:
        if any(dim < 0 for dim in spec.shape[first:]) or set(spec.name) & set(":,"):
            raise ModelUnavailable(
                f"TensorRT must know what sizes input {spec.name!r} of shape {list(spec.shape)} can have: "
                f"set {', '.join(_PROFILES)} in execution.options, such as {spec.name}:1x64"
            )
    least, largest = _shapes(signature, 1), _shapes(signature, max_batch_size)
    return dict(zip(_PROFILES, (least, largest, largest), strict=True))


def _shapes(signature: Signature, rows: int) -> str:
    """Of a signature whose one free axis is the batch axis."""
    return ",".join(f"{spec.name}:{'x'.join(map(str, (rows, *spec.shape[1:])))}" for spec in signature.inputs)


def engine_facts(sha256: str, runtime: str, tensorrt: str, gpu: Gpu, settings: GpuSettings) -> list[object]:
    """What an engine is good for, and for nothing else."""
    return [sha256, runtime, tensorrt, gpu.identity, settings.max_batch_size, dict(settings.options)]
