"""What a model takes and gives, and whether replicas can stand before it: read from Triton's metadata and config. Pure.

Triton's answers: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2

from router.domain.errors import ModelUnavailable
from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES

_ON_GPUS = model_config_pb2.ModelInstanceGroup.KIND_GPU


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`instances`: how many batches one server computes side by side."""

    signature: Signature
    instances: int


def read_model(metadata: Any, config: Any) -> ServedModel:
    """From a `ModelMetadataResponse` and a `ModelConfig`.

    With a `max_batch_size`, Triton's own axis 0 is the batch. Without, axis 0 may still be one when it is free
    everywhere: the warm-up tries whether it is.

    Raises `ModelUnavailable` for a model of which requests cannot be joined, or have not exactly one reply.
    """
    if config.model_transaction_policy.decoupled:
        raise ModelUnavailable(
            f"Triton's model {config.name!r} is decoupled, a request may have many replies: use triton.mode: direct"
        )
    if config.WhichOneof("scheduling_choice") == "sequence_batching":
        raise ModelUnavailable(
            f"Triton's model {config.name!r} keeps state between the requests of a sequence, which replicas and "
            "batches would part: use triton.mode: direct"
        )
    inputs, outputs = _specs("input", metadata.inputs), _specs("output", metadata.outputs)
    if not inputs or not outputs:
        raise ModelUnavailable(f"Triton's model {config.name!r} names no inputs or no outputs in its configuration")
    shapes = [spec.shape for spec in (*inputs, *outputs)]
    is_batchable = config.max_batch_size > 0 or all(shape[:1] == (-1,) for shape in shapes)
    return ServedModel(
        Signature(inputs, outputs, is_batchable, config.max_batch_size), _instances(config.instance_group)
    )


def _specs(kind: str, tensors: Sequence[Any]) -> tuple[TensorSpec, ...]:
    # An optional input is asked for like any other, as it is of ONNX models.
    for tensor in tensors:
        if tensor.datatype not in DATATYPES:
            raise ModelUnavailable(f"Triton's {kind} {tensor.name!r} is {tensor.datatype!r}, which is no V2 datatype")
    return tuple(TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)


def _instances(groups: Sequence[Any]) -> int:
    counts = (group.count * (max(1, len(group.gpus)) if group.kind == _ON_GPUS else 1) for group in groups)
    return max(1, int(sum(counts)))
