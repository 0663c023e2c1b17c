"""What a bridge makes of a model's metadata and configuration, and of what Triton says when it fails."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from adapters.triton.bridge_signature import read_model
from adapters.triton.bridge_words import is_out_of_reach, is_region_unknown, scoring_error
from router.domain.errors import ModelUnavailable
from serving.errors import BadRequest, DeadlinePassed, ModelFailed, Overloaded, ScoringError, Unavailable

Code = grpc.StatusCode
Config = model_config_pb2.ModelConfig
Metadata = service_pb2.ModelMetadataResponse
Group = model_config_pb2.ModelInstanceGroup


def metadata(*shapes: tuple[int, ...], datatype: str = "FP32") -> Metadata:
    """One input for each shape, and an output of the last."""
    made = Metadata(name="m")
    for at, shape in enumerate(shapes):
        made.inputs.add(name=f"x{at}", datatype=datatype, shape=shape)
    made.outputs.add(name="y", datatype=datatype, shape=shapes[-1])
    return made


def test_the_names_datatypes_and_shapes_are_tritons_and_its_batch_is_ours() -> None:
    served = read_model(metadata((-1, 3), (-1, -1, 2)), Config(name="m", max_batch_size=8))
    signature = served.signature
    assert [(it.name, it.datatype, it.shape) for it in signature.inputs] == [
        ("x0", "FP32", (-1, 3)),
        ("x1", "FP32", (-1, -1, 2)),
    ]
    assert [it.name for it in signature.outputs] == ["y"]
    assert (signature.is_batchable, signature.max_rows) == (True, 8)


@pytest.mark.parametrize(
    ("shapes", "may_batch"), [([(-1, 3)], True), ([(-1, 3), (-1,)], True), ([(1, 3)], False), ([(), (-1,)], False)]
)
def test_where_triton_batches_nothing_a_free_first_axis_may_still_be_one(
    shapes: list[tuple[int, ...]], may_batch: bool
) -> None:
    signature = read_model(metadata(*shapes), Config(name="m")).signature
    assert (signature.is_batchable, signature.max_rows) == (may_batch, 0)


@pytest.mark.parametrize(
    ("groups", "instances"),
    [
        ([], 1),
        ([Group(count=3, kind=Group.KIND_CPU)], 3),
        ([Group(count=2, kind=Group.KIND_GPU, gpus=[0, 1])], 4),
        ([Group(count=1, kind=Group.KIND_MODEL, gpus=[0, 1]), Group(count=1, kind=Group.KIND_CPU)], 2),
    ],
)
def test_instances_are_counted_over_groups_and_gpus(groups: list[Any], instances: int) -> None:
    assert read_model(metadata((1,)), Config(name="m", instance_group=groups)).instances == instances


@pytest.mark.parametrize(
    ("given", "config", "reason"),
    [
        (metadata((1,)), Config(model_transaction_policy={"decoupled": True}), "use triton.mode: direct"),
        (metadata((1,)), Config(sequence_batching={}), "use triton.mode: direct"),
        (metadata((1,), datatype="FP8"), Config(), "no V2 datatype"),
        (Metadata(), Config(), "names no inputs"),
    ],
)
def test_what_cannot_be_bridged_is_refused(given: Metadata, config: Any, reason: str) -> None:
    with pytest.raises(ModelUnavailable, match=reason):
        read_model(given, config)


@pytest.mark.parametrize(
    ("code", "words", "kind", "said"),
    [
        (Code.INVALID_ARGUMENT, "[request id: 7] unexpected shape", BadRequest, "unexpected shape"),
        (Code.INTERNAL, "Failed to process the request(s)", ModelFailed, "Failed to process the request(s)"),
        (Code.UNKNOWN, "", ModelFailed, "UNKNOWN"),
        (Code.UNIMPLEMENTED, "no", ModelFailed, "no"),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlinePassed, "before Triton answered"),
        (Code.UNAVAILABLE, "failed to connect", Unavailable, "failed to connect"),
        (Code.NOT_FOUND, "Request for unknown model: 'm' is not found", Unavailable, "unknown model"),
        (Code.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size", Overloaded, "queue size"),
        (Code.UNAVAILABLE, "Request timeout expired", DeadlinePassed, "timeout expired"),
    ],
)
def test_tritons_words_are_kept_and_its_codes_say_whose_fault_it_is(
    code: Code, words: str, kind: type[ScoringError], said: str
) -> None:
    error = scoring_error(code, words)
    assert type(error) is kind
    assert said in str(error)
    assert "request id" not in str(error)
    assert is_out_of_reach(code, words) is (kind is Unavailable)


def test_memory_that_triton_has_forgotten_is_told_from_other_complaints() -> None:
    assert is_region_unknown("Unable to find shared memory region: 'crossfade-bridge-1'")
    assert is_region_unknown("Unable to find system shared memory region: 'x'")
    assert not is_region_unknown("unexpected shape for input 'x'")
