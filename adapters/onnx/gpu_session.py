"""Opens a session on a GPU: what was planned meets the device here. Nothing falls back to the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort

from adapters.onnx.cpu_run import CpuRun
from adapters.onnx.device_plan import GraphPlan, can_be_bound, graph_plan
from adapters.onnx.device_run import DeviceRun
from adapters.onnx.engine_cache import emptied, engine_folder
from adapters.onnx.nvidia import CudaMemory, DeviceFailed, load_cudart, tensorrt_version
from adapters.onnx.options import GpuSettings, OnnxOptions
from adapters.onnx.providers import (
    CPU,
    Gpu,
    ProviderRequest,
    check_installed,
    check_started,
    cuda_request,
    engine_facts,
    has_profiles,
    tensorrt_request,
    wants_graphs,
)
from adapters.onnx.session import open_session, session_settings
from adapters.onnx.signature import read_signature
from adapters.onnx.staging import DeviceMemory
from router.domain.deployment_settings import Provider
from router.domain.errors import ModelUnavailable
from serving.signature import Signature

log = logging.getLogger(__name__)


Open = Callable[[list[ProviderRequest]], ort.InferenceSession]


def open_gpu_run(options: OnnxOptions, settings: GpuSettings) -> tuple[Signature, DeviceRun | CpuRun]:
    """Raises `ModelUnavailable` when the provider is not there, does not start or does not take the model."""
    check_installed(settings.provider, ort.get_available_providers())
    ort.preload_dlls()  # CUDA and cuDNN from their wheels
    memory = CudaMemory(load_cudart(ort.cuda_version), settings.device_id)
    try:
        gpu = memory.gpu()
    except DeviceFailed as error:
        raise ModelUnavailable(
            f"the deployment asks for a GPU, but CUDA finds none ({error}): it needs an NVIDIA GPU and its driver"
        ) from error

    def open_with(providers: list[ProviderRequest]) -> ort.InferenceSession:
        session = open_session(Path(options.path), session_settings(options.cpu, is_capped=False), providers)
        check_started(settings.provider, session.get_providers())
        return session

    return run_on(gpu, memory, options, settings, open_with)


def run_on(
    gpu: Gpu, memory: DeviceMemory, options: OnnxOptions, settings: GpuSettings, open_with: Open
) -> tuple[Signature, DeviceRun | CpuRun]:
    """The way to run a model on this device: what is asked for, in which order. Raises `ModelUnavailable`."""
    path = Path(options.path)
    try:
        if settings.provider is Provider.TENSORRT:
            session = _tensorrt(gpu, options, settings, open_with)
        elif wants_graphs(settings) and (run := _with_graphs(gpu, memory, path, settings, open_with)):
            return run
        else:
            session = open_with(cuda_request(settings, gpu, has_graphs=False))
        signature = signature_of(session, path)
        if not can_be_bound(signature):
            return signature, CpuRun(session, signature)
        return signature, DeviceRun(session, signature, memory, None, run_options)
    except DeviceFailed as error:
        raise ModelUnavailable(f"model file {path.name!r} did not load on the GPU: {error}") from error


def _with_graphs(
    gpu: Gpu, memory: DeviceMemory, path: Path, settings: GpuSettings, open_with: Open
) -> tuple[Signature, DeviceRun] | None:
    """None when this model cannot have CUDA graphs; the reason is logged."""
    try:
        # Refused by ONNX Runtime when a node runs on the CPU.
        session = open_with(cuda_request(settings, gpu, has_graphs=True))
        signature = signature_of(session, path)
        plan = graph_plan(signature, settings.max_batch_size)
        if isinstance(plan, GraphPlan):
            return signature, DeviceRun(session, signature, memory, plan, run_options)
        reason = plan
    except Exception as error:
        reason = str(error)
    log.info("the model runs without CUDA graphs", extra={"model": path.name, "reason": reason})
    return None


def _tensorrt(gpu: Gpu, options: OnnxOptions, settings: GpuSettings, open_with: Open) -> ort.InferenceSession:
    path = Path(options.path)
    signature = None
    if not has_profiles(settings):
        # The shapes must be known before TensorRT sees the model: a session that optimises nothing tells them.
        glance = session_settings(options.cpu, is_capped=False)
        glance.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        signature = signature_of(open_session(path, glance, [CPU]), path)
    runtime = f"{ort.__version__} {ort.get_build_info()}"
    facts = engine_facts(options.sha256, runtime, tensorrt_version(), gpu, settings)
    folder = engine_folder(options.cache_dir, facts) if options.cache_dir else None
    providers = tensorrt_request(settings, gpu, signature, str(folder) if folder else "")
    try:
        return open_with(providers)
    except ModelUnavailable as error:
        if folder is None or not emptied(folder):
            raise
        log.warning("TensorRT engines are built again", extra={"model": path.name, "reason": str(error)})
    return open_with(providers)


def signature_of(session: Any, path: Path) -> Signature:
    return read_signature(session.get_inputs(), session.get_outputs(), path)


def run_options(graph_id: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
