"""config.pbtxt as a deployment's Triton gets it, read again with Triton's own messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb2

from adapters.triton.model_config import Wanted, adapted, backend_named, facts_of, leading, wanted_of, written
from adapters.triton_config import TritonConfigs
from router.domain.deployment import Backend, DeployedModel, Deployment
from router.domain.deployment_settings import Batching, Execution, Provider, Resources
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.triton_managed import ManagedTriton
from router.domain.triton_repository import ModelFacts, Step
from serving.signature import Signature, TensorSpec
from serving.triton_ports import TriedModel


def tried(*, is_batchable: bool = True, **shapes: tuple[int, ...]) -> TriedModel:
    """Inputs of these shapes, and one output."""
    inputs = tuple(TensorSpec(name, "FP32", shape) for name, shape in shapes.items())
    sample = {spec.name: np.ones([1 if dim < 0 else dim for dim in spec.shape], np.float32) for spec in inputs}
    return TriedModel(Signature(inputs, (TensorSpec("y", "INT64", (-1, 3)),), is_batchable), sample)


ROWS = tried(x=(-1, 64), mask=(-1, -1))
WANTED = Wanted("fraud")


def config(wanted: Wanted = WANTED, model: TriedModel = ROWS) -> Any:
    return text_format.Parse(written(wanted, model, "m.onnx"), pb2.ModelConfig())


def own(text: str, wanted: Wanted = WANTED, model: TriedModel = ROWS) -> Any:
    return text_format.Parse(adapted(text, wanted, model, "model.onnx"), pb2.ModelConfig())


def test_a_model_whose_rows_may_be_joined_is_batched_without_its_batch_axis() -> None:
    made = config(replace(WANTED, max_batch_size=32))
    assert (made.name, made.backend, made.default_model_filename) == ("fraud", "onnxruntime", "m.onnx")
    assert made.max_batch_size == 32
    assert [(one.name, one.data_type, list(one.dims)) for one in made.input] == [
        ("x", pb2.TYPE_FP32, [64]),
        ("mask", pb2.TYPE_FP32, [-1]),
    ]
    assert [(one.name, one.data_type, list(one.dims)) for one in made.output] == [("y", pb2.TYPE_INT64, [3])]
    assert made.HasField("dynamic_batching")
    assert made.dynamic_batching.max_queue_delay_microseconds == 0
    assert not made.dynamic_batching.HasField("default_queue_policy")


@pytest.mark.parametrize(
    ("wanted", "model"),
    [
        (replace(WANTED, max_batch_size=1), ROWS),  # switched off
        (WANTED, tried(is_batchable=False, x=(-1, 64))),  # its rows change one another
        (WANTED, tried(x=(4, 64))),
        (WANTED, tried(x=(-1,))),  # nothing would be left of the shape
    ],
    ids=["off", "not independent", "fixed", "no other axis"],
)
def test_any_other_keeps_all_its_axes_and_is_not_batched(wanted: Wanted, model: TriedModel) -> None:
    made = config(wanted, model)
    assert made.max_batch_size == 0
    assert [list(one.dims) for one in made.input] == [list(spec.shape) for spec in model.signature.inputs]
    assert not made.HasField("dynamic_batching")


def test_the_delay_and_the_sizes_that_are_preferred_are_as_asked() -> None:
    asked = ManagedTriton(max_queue_delay_us=200, preferred_batch_sizes=(8, 64))
    batching = config(replace(WANTED, max_batch_size=64, triton=asked)).dynamic_batching
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([8, 64], 200)


def test_sizes_that_no_batch_of_the_model_has_are_refused() -> None:
    wanted = replace(WANTED, triton=ManagedTriton(preferred_batch_sizes=(2, 8)))
    with pytest.raises(ModelUnavailable, match="no batch of 8 rows: the model's rows cannot be joined"):
        config(wanted, tried(is_batchable=False, x=(-1, 64)))
    with pytest.raises(ModelUnavailable, match="no batch of 8 rows: the model's own max_batch_size is 4"):
        own("max_batch_size: 4", wanted)
    assert own("max_batch_size: 4 dynamic_batching { preferred_batch_size: 4 }", wanted).max_batch_size == 4


def test_instances_are_on_the_cpu_each_with_its_threads() -> None:
    made = config(replace(WANTED, instances=3, threads=2))
    (group,) = made.instance_group
    assert (group.kind, group.count) == (pb2.ModelInstanceGroup.KIND_CPU, 3)
    assert made.parameters["intra_op_thread_count"].string_value == "2"
    assert not made.optimization.execution_accelerators.gpu_execution_accelerator


def test_or_dealt_out_to_the_gpus_that_the_replica_has() -> None:
    made = config(replace(WANTED, instances=3, gpus=2, has_tensorrt=True))
    (group,) = made.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (pb2.ModelInstanceGroup.KIND_GPU, 2, [0, 1])
    (accelerator,) = made.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"


def test_it_is_warmed_up_with_a_request_that_it_has_answered() -> None:
    (warm_up,) = config().model_warmup
    assert {name: list(one.dims) for name, one in warm_up.inputs.items()} == {"x": [64], "mask": [1]}
    assert [one.input_data_file for _, one in sorted(warm_up.inputs.items(), reverse=True)] == [
        "crossfade-0",
        "crossfade-1",
    ]
    assert not config(replace(WANTED, triton=ManagedTriton(is_warmed_up=False))).model_warmup


def test_text_is_what_triton_calls_strings_and_scalars_it_does_not_know() -> None:
    text = TriedModel(
        Signature((TensorSpec("t", "BYTES", (-1, 1)),), (TensorSpec("y", "BF16", (-1, 1)),), True),
        {"t": np.array([[b"a"]], dtype=object)},
    )
    made = config(model=text)
    assert (made.input[0].data_type, made.output[0].data_type) == (pb2.TYPE_STRING, pb2.TYPE_BF16)
    with pytest.raises(ModelUnavailable, match=r"'x' is a scalar.*export it"):
        config(model=tried(is_batchable=False, x=()))


def test_a_configuration_that_came_with_the_model_keeps_what_its_author_meant() -> None:
    made = own(
        'name: "theirs" platform: "onnxruntime_onnx" max_batch_size: 4 version_policy { specific { versions: 9 } } '
        "instance_group { count: 9 kind: KIND_GPU } dynamic_batching { preferred_batch_size: 4 } "
        'parameters { key: "intra_op_thread_count" value { string_value: "5" } } '
        'input { name: "x" data_type: TYPE_FP32 dims: 64 reshape { shape: [ 8, 8 ] } }'
    )
    assert (made.name, made.platform, made.max_batch_size) == ("fraud", "onnxruntime_onnx", 4)
    assert list(made.input[0].reshape.shape) == [8, 8]
    assert list(made.dynamic_batching.preferred_batch_size) == [4]
    assert made.parameters["intra_op_thread_count"].string_value == "5"
    # What the deployment decides: how many, where, and which version.
    assert [(group.kind, group.count) for group in made.instance_group] == [(pb2.ModelInstanceGroup.KIND_CPU, 1)]
    assert not made.HasField("version_policy")


def test_what_it_leaves_out_the_deployment_says() -> None:
    made = own("max_batch_size: 8")
    assert (made.backend, made.default_model_filename) == ("onnxruntime", "model.onnx")
    assert made.HasField("dynamic_batching")


def test_one_with_sequences_is_not_batched_otherwise() -> None:
    made = own('backend: "python" max_batch_size: 8 sequence_batching { }')
    assert made.WhichOneof("scheduling_choice") == "sequence_batching"
    assert "intra_op_thread_count" not in made.parameters


@pytest.mark.parametrize(
    ("text", "model", "words"),
    [
        ("max_batch_size: 8", tried(x=(4, 64)), "max_batch_size 8, and axis 0 .* is not a free batch axis"),
        ('platform: "ensemble"', ROWS, "an ensemble of others, and a graph of its own was chosen"),
        ("max_batch_size: many", ROWS, "none of Triton's"),
    ],
)
def test_one_that_contradicts_the_model_is_refused(text: str, model: TriedModel, words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        own(text, model=model)


ENSEMBLE = (
    'name: "theirs" platform: "ensemble" max_batch_size: 4 version_policy { latest { num_versions: 2 } } '
    'ensemble_scheduling { step { model_name: "a" model_version: 3 input_map { key: "x" value: "row" } } '
    'step { model_name: "fraud" model_version: -1 } }'
)


def test_an_ensemble_keeps_what_its_author_meant_but_for_its_name_and_those_of_others() -> None:
    made = text_format.Parse(leading(ENSEMBLE, "fraud", {"a": "a", "fraud": "fraud-part"}), pb2.ModelConfig())
    assert (made.name, made.platform, made.max_batch_size) == ("fraud", "ensemble", 4)
    steps = made.ensemble_scheduling.step
    assert [(step.model_name, step.model_version) for step in steps] == [("a", -1), ("fraud-part", -1)]
    assert steps[0].input_map == {"x": "row"}
    assert not made.HasField("version_policy")
    assert not made.instance_group  # Triton takes none for an ensemble


def test_what_a_configuration_says_of_a_models_place_among_others() -> None:
    assert facts_of(ENSEMBLE) == ModelFacts("ensemble", steps=(Step("a", 3), Step("fraud")))
    assert facts_of("") == facts_of('platform: "onnxruntime_onnx"') == ModelFacts("onnxruntime", "model.onnx")
    assert facts_of('backend: "python" default_model_filename: "m.py"') == ModelFacts("python", "m.py")
    with pytest.raises(ModelUnavailable, match="none of Triton's"):
        facts_of("max_batch_size: many")


@pytest.mark.parametrize("backend", ["", "onnxruntime", "python"])
@pytest.mark.parametrize("platform", ["", "onnxruntime_onnx", "ensemble"])
@pytest.mark.parametrize("file", ["", "m.onnx"])
def test_the_gate_and_the_repository_understand_a_configuration_alike(backend: str, platform: str, file: str) -> None:
    own = (
        f'backend: "{backend}" platform: "{platform}" default_model_filename: "{file}" '
        'input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 dims: 4 } '
        'ensemble_scheduling { step { model_name: "a" model_version: 3 } }'
    )
    assert TritonConfigs().read("m/config.pbtxt", own.encode()).facts == facts_of(own)


def test_the_backend_that_must_be_there_is_known() -> None:
    assert backend_named(written(WANTED, ROWS, "m.onnx")) == "onnxruntime"
    assert backend_named('platform: "onnxruntime_onnx"') == "onnxruntime"
    assert backend_named('backend: "python"') == "python"


@pytest.mark.parametrize(
    ("resources", "provider", "gpus", "has_tensorrt"),
    [
        (Resources(), Provider.AUTO, 0, False),
        (Resources(gpu=0.5), Provider.AUTO, 1, False),
        (Resources(gpu=2), Provider.TENSORRT, 2, True),
    ],
)
def test_what_is_wanted_follows_the_deployment(
    resources: Resources, provider: Provider, gpus: int, has_tensorrt: bool
) -> None:
    spec = Deployment(
        "green",
        "fraud",
        ModelRef("file", "/m.onnx"),
        backend=Backend.TRITON,
        managed=ManagedTriton(),
        resources=replace(resources, cpu=4),
        execution=Execution(provider, instances_per_replica=2),
        batching=Batching(max_batch_size=16),
    )
    wanted = wanted_of(DeployedModel(spec, ResolvedModel("/m.onnx", "ab" * 32)))
    assert (wanted.name, wanted.max_batch_size, wanted.instances, wanted.threads) == ("fraud", 16, 2, 2)
    assert (wanted.gpus, wanted.has_tensorrt) == (gpus, has_tensorrt)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_names_come_through_whatever_is_in_them(name: str, file: str) -> None:
    made = text_format.Parse(written(WANTED, tried(**{name: (-1, 2)}), file), pb2.ModelConfig())
    assert (made.input[0].name, made.default_model_filename) == (name, file)
