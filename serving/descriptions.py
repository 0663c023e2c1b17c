"""What the protocol's describing calls say, as plain documents that HTTP sends as JSON and gRPC fills messages from.

The shapes are Triton's: https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from __future__ import annotations

from typing import Any

from serving.ports import ScoringModel
from serving.server_view import SERVER_NAME, IndexEntry, ServerView
from serving.signature import TensorSpec
from serving.statistics import DurationStatistic

Document = dict[str, Any]

# Only what works: no sequences, classification, shared memory, tracing or model loading by clients.
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "statistics")


def server_metadata(view: ServerView) -> Document:
    return {"name": SERVER_NAME, "version": view.version, "extensions": list(EXTENSIONS)}


def repository_index(view: ServerView, ready_only: bool) -> list[Document]:
    return [_index_entry(entry) for entry in view.index if entry.state == "READY" or not ready_only]


def model_metadata(model: ScoringModel, platform: str) -> Document:
    """Shapes include the batch axis. Raises `Unavailable` before the model has loaded."""
    signature = model.signature
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": platform,
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }


def model_config(model: ScoringModel, platform: str) -> Document:
    """Triton's ModelConfig. `dims` are without the batch axis when `max_batch_size` is above 0."""
    signature = model.signature
    is_batched = model.max_batch_size > 0
    config: Document = {
        "name": model.name,
        "platform": platform,
        "max_batch_size": model.max_batch_size,
        "input": [_config_tensor(spec, is_batched) for spec in signature.inputs],
        "output": [_config_tensor(spec, is_batched) for spec in signature.outputs],
    }
    if model.max_batch_size > 1:
        config["dynamic_batching"] = {}
    return config


def model_statistics(model: ScoringModel) -> Document:
    stats = model.statistics()
    nothing = _duration(DurationStatistic())
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": stats.last_inference_ms,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {
            "success": _duration(stats.success),
            "fail": _duration(stats.fail),
            "queue": _duration(stats.queue),
            "compute_input": _duration(stats.compute_input),
            "compute_infer": _duration(stats.compute_infer),
            "compute_output": _duration(stats.compute_output),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(batch.compute_input),
                "compute_infer": _duration(batch.compute_infer),
                "compute_output": _duration(batch.compute_output),
            }
            for rows, batch in sorted(stats.batches.items())
        ],
        "memory_usage": [],
        "response_stats": {},
    }


def _index_entry(entry: IndexEntry) -> Document:
    document = {"name": entry.name, "version": entry.version, "state": entry.state}
    if entry.reason:
        document["reason"] = entry.reason
    return document


def _tensor(spec: TensorSpec) -> Document:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: TensorSpec, is_batched: bool) -> Document:
    data_type = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": data_type, "dims": list(spec.shape[1:] if is_batched else spec.shape)}


def _duration(statistic: DurationStatistic) -> Document:
    return {"count": statistic.count, "ns": statistic.ns}
