"""config.pbtxt: what Triton is told of a model that it serves for a deployment. Pure: values in, text out.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb2

from router.domain.deployment import DeployedModel
from router.domain.deployment_settings import Provider
from router.domain.errors import ModelUnavailable
from router.domain.triton_managed import ManagedTriton
from router.domain.triton_repository import ENSEMBLE, ONNX, ModelFacts, Step, backend_meant, facts_meant
from serving.signature import Signature, TensorSpec
from serving.triton_ports import TriedModel

WARM_UP_FOLDER = "warmup"  # where Triton looks for the files that a warm-up names


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a deployment asks of its Triton. `gpus` counts the devices that the process may see; `threads` is for one
    instance of the model."""

    name: str
    max_batch_size: int = 64
    instances: int = 1
    threads: int = 1
    gpus: int = 0
    has_tensorrt: bool = False
    triton: ManagedTriton = field(default_factory=ManagedTriton)


def wanted_of(deployed: DeployedModel) -> Wanted:
    spec = deployed.spec
    assert spec.managed is not None
    return Wanted(
        name=spec.endpoint,
        max_batch_size=spec.batching.max_batch_size,
        instances=spec.execution.instances_per_replica,
        threads=spec.threads_per_instance,
        gpus=0 if spec.provider is Provider.CPU else max(1, int(spec.resources.gpu)),
        has_tensorrt=spec.provider is Provider.TENSORRT,
        triton=spec.managed,
    )


def written(wanted: Wanted, model: TriedModel, file: str) -> str:
    """For an ONNX file of that name. Raises `ModelUnavailable` for what Triton cannot express."""
    signature = model.signature
    rows = _rows(wanted, signature)
    config = pb2.ModelConfig(name=wanted.name, backend=ONNX, default_model_filename=file, max_batch_size=rows)
    config.input.extend(
        pb2.ModelInput(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, rows)) for spec in signature.inputs
    )
    config.output.extend(
        pb2.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, rows))
        for spec in signature.outputs
    )
    if wanted.triton.is_warmed_up:
        config.model_warmup.append(_warm_up(model, rows))
    _settle(config, wanted)
    return str(text_format.MessageToString(config))


def adapted(own: str, wanted: Wanted, model: TriedModel, file: str) -> str:
    """A configuration that came with the model, as its author meant it; but its name, its instances and its versions
    are the deployment's, and so is what it leaves out.

    Raises `ModelUnavailable` when it contradicts the model.
    """
    config = _parsed(own)
    if backend_of(config) == ENSEMBLE:
        raise ModelUnavailable(
            "the model's config.pbtxt says that it is an ensemble of others, and a graph of its own was chosen: leave "
            "the choice after the '#' out, and publish the folders of all of them beside each other"
        )
    if config.max_batch_size > 0 and not _has_batch_axis(model.signature):
        raise ModelUnavailable(
            f"the model's config.pbtxt says max_batch_size {config.max_batch_size}, and axis 0 of its tensors is not a "
            "free batch axis: set it to 0, or export the model with one"
        )
    config.name = wanted.name
    config.ClearField("version_policy")  # there is one version: the one that was deployed
    if not config.backend and not config.platform:
        config.backend = ONNX
    if backend_of(config) == ONNX:
        config.default_model_filename = file
    config.ClearField("instance_group")
    _settle(config, wanted)
    return str(text_format.MessageToString(config))


def leading(own: str, name: str, names: Mapping[str, str]) -> str:
    """The configuration that came with an ensemble, with its own name and those of the models that it leads to.

    There is one version of each, so it leads to that one. Raises `ModelUnavailable`.
    """
    config = _parsed(own)
    config.name = name
    config.ClearField("version_policy")
    for step in config.ensemble_scheduling.step:
        step.model_name = names[step.model_name]
        step.model_version = -1
    return str(text_format.MessageToString(config))


def facts_of(own: str) -> ModelFacts:
    """What a configuration says of its model's place among others. Raises `ModelUnavailable`."""
    config = _parsed(own)
    steps = tuple(Step(step.model_name, max(0, step.model_version)) for step in config.ensemble_scheduling.step)
    return facts_meant(config.backend, config.platform, config.default_model_filename, steps)


def _parsed(own: str) -> pb2.ModelConfig:
    config = pb2.ModelConfig()
    try:
        text_format.Parse(own, config)
    except (text_format.ParseError, RecursionError) as error:
        raise ModelUnavailable(f"the model's config.pbtxt is none of Triton's: {str(error)[:200]}") from None
    return config


def backend_of(config: pb2.ModelConfig) -> str:
    return backend_meant(config.backend, config.platform)


def backend_named(text: str) -> str:
    """The backend that a configuration of ours needs."""
    return backend_of(text_format.Parse(text, pb2.ModelConfig()))


def warm_up_file(at: int) -> str:
    """Holds the sample's tensor for the input at that place."""
    return f"crossfade-{at}"


def _settle(config: pb2.ModelConfig, wanted: Wanted) -> None:
    """What the deployment says of any model."""
    if wanted.gpus:
        # `count` is for each device.
        count = -(-wanted.instances // wanted.gpus)
        config.instance_group.add(kind=pb2.ModelInstanceGroup.KIND_GPU, count=count, gpus=range(wanted.gpus))
    else:
        config.instance_group.add(kind=pb2.ModelInstanceGroup.KIND_CPU, count=wanted.instances)
    if not config.WhichOneof("scheduling_choice"):
        _check_sizes(wanted.triton.preferred_batch_sizes, config.max_batch_size)
        if config.max_batch_size > 1:
            _batch(config.dynamic_batching, wanted.triton)
    if backend_of(config) != ONNX:
        return
    for name, value in (("intra_op_thread_count", wanted.threads), ("inter_op_thread_count", 1)):
        if name not in config.parameters:
            config.parameters[name].string_value = str(value)
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    if wanted.has_tensorrt and not accelerators:
        accelerators.add(name="tensorrt")


def _check_sizes(preferred: Sequence[int], max_rows: int) -> None:
    """Raises `ModelUnavailable` for batches that there cannot be."""
    if preferred and preferred[-1] > max(max_rows, 1):
        most = f"the model's own max_batch_size is {max_rows}" if max_rows else "the model's rows cannot be joined"
        raise ModelUnavailable(f"triton.preferred_batch_sizes: there is no batch of {preferred[-1]} rows: {most}")


def _batch(batching: pb2.ModelDynamicBatching, triton: ManagedTriton) -> None:
    """Without a delay, a batch is what waits when an instance is free: nobody waits for company.

    No queue policy: Envoy bounds how many requests are under way and for how long. With one, Triton 2.51 is slow where
    processors are scarce: 700 to 1,900 requests a second instead of 3,100 to 4,200 (a tiny network, eight clients, two
    cores, three busy loops beside it).
    """
    batching.SetInParent()
    batching.preferred_batch_size.extend(triton.preferred_batch_sizes)
    batching.max_queue_delay_microseconds = triton.max_queue_delay_us


def _rows(wanted: Wanted, signature: Signature) -> int:
    """Triton's max_batch_size: 0 when rows are not joined, which leaves every axis to the model."""
    is_batched = wanted.max_batch_size > 1 and signature.is_batchable and _has_batch_axis(signature)
    return wanted.max_batch_size if is_batched else 0


def _has_batch_axis(signature: Signature) -> bool:
    """Triton takes axis 0 away, and cannot do with a tensor that has no other."""
    return all(len(spec.shape) > 1 and spec.shape[0] == -1 for spec in (*signature.inputs, *signature.outputs))


def _dims(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    if not spec.shape:
        raise ModelUnavailable(f"{spec.name!r} is a scalar, which Triton has no word for: export it with shape [1]")
    return spec.shape[1:] if rows else spec.shape


def _data_type(spec: TensorSpec) -> int:
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return int(pb2.DataType.Value(f"TYPE_{name}"))


def _warm_up(model: TriedModel, rows: int) -> pb2.ModelWarmup:
    """Each instance answers the request that the model has answered before."""
    warm_up = pb2.ModelWarmup(name="sample", batch_size=1)
    for at, spec in enumerate(model.signature.inputs):
        shape = model.sample[spec.name].shape
        warm_up.inputs[spec.name].CopyFrom(
            pb2.ModelWarmup.Input(
                data_type=_data_type(spec), dims=shape[1:] if rows else shape, input_data_file=warm_up_file(at)
            )
        )
    return warm_up
