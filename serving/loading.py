"""Which backend runs a deployment's model, and how it is loaded: where a replica's model is put together. No Ray."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from adapters.onnx.backend import OnnxBackend
from adapters.onnx.options import options_for
from adapters.triton.bridge import TritonBridge
from router.domain.deployment import DeployedModel
from router.domain.triton import RunningTriton
from serving.model import Model, ModelSettings
from serving.ports import Backend
from serving.replica import Tell

_ASK_TRITONS_EVERY_S = 1.0


async def load_model(cache_dir: str, deployed: DeployedModel, tell: Tell) -> Model:
    """Load and warm the model of a deployment on this machine, or wait for the Tritons that serve it.

    Raises `ModelUnavailable`.
    """
    spec = deployed.spec
    model = Model(
        ModelSettings(
            name=spec.endpoint,
            version=deployed.model_version,
            max_batch_size=spec.batching.max_batch_size,
            max_waiting=spec.request_settings.max_concurrent_requests_per_instance,
            objective_s=spec.batching.objective_ms / 1000,
            is_objective_binding=spec.batching.latency_slo_ms is not None,
            padding_mask=spec.batching.padding_mask,
            instances=spec.execution.instances_per_replica,
        )
    )
    await model.load(await _opener(cache_dir, deployed, tell))
    return model


async def _opener(cache_dir: str, deployed: DeployedModel, tell: Tell) -> Callable[[], Backend]:
    if isinstance(deployed.model, RunningTriton):
        bridge = await _bridge(deployed.model, tell)
        return lambda: bridge
    instances = itertools.count()
    return lambda: OnnxBackend(options_for(deployed, cache_dir, next(instances)))


async def _bridge(triton: RunningTriton, tell: Tell) -> TritonBridge:
    """Waits, without end, until a Triton answers with the model: it may well start after this replica."""
    bridge = TritonBridge(triton)
    try:
        while trouble := await asyncio.to_thread(bridge.connect):
            await tell(trouble)
            await asyncio.sleep(_ASK_TRITONS_EVERY_S)
    except BaseException:
        bridge.close()
        raise
    return bridge
