"""Reads Triton's config.pbtxt with Triton's own messages. What it may say: router/models/triton_layout.py."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from router.domain.triton_repository import ENSEMBLE, Step, backend_meant
from router.models.ports import AdmissionRefused
from router.models.trial import Check
from router.models.triton_layout import TritonConfig
from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES

_LOADS = ("runtime", "cc_model_filenames", "model_operations", "model_repository_agents")
_LOADING_PARAMETERS = ("EXECUTION_ENV_PATH",)


class TritonConfigs:
    """Implements `Configs`."""

    def read(self, path: str, content: bytes) -> TritonConfig:
        """Raises `AdmissionRefused`."""
        config = model_config_pb2.ModelConfig()
        try:
            text_format.Parse(content.decode(), config)
        except (text_format.ParseError, ValueError, RecursionError) as error:
            raise AdmissionRefused(
                Check.FORMATS, f"{path!r} is no configuration of Triton's: {str(error)[:200]!r}", "correct or remove it"
            ) from None
        steps = tuple(Step(step.model_name, max(0, step.model_version)) for step in config.ensemble_scheduling.step)
        is_ensemble = backend_meant(config.backend, config.platform) == ENSEMBLE
        given = {field.name for field, _ in config.ListFields()}
        warm_up = [each.input_data_file for warm_up in config.model_warmup for each in warm_up.inputs.values()]
        return TritonConfig(
            backend=config.backend,
            platform=config.platform,
            files=tuple(name for name in (config.default_model_filename, *warm_up) if name),
            loads=tuple(name for name in _LOADS if name in given)
            + tuple(name for name in _LOADING_PARAMETERS if name in config.parameters),
            file=config.default_model_filename,
            steps=steps,
            signature=_signature(path, config) if is_ensemble else None,
        )


def _signature(path: str, config: model_config_pb2.ModelConfig) -> Signature:
    """Of an ensemble, which has no other word for it. Raises `AdmissionRefused`."""
    is_batched = config.max_batch_size > 0
    inputs, outputs = (
        tuple(
            TensorSpec(tensor.name, _datatype(path, tensor), (-1, *tensor.dims) if is_batched else tuple(tensor.dims))
            for tensor in tensors
        )
        for tensors in (config.input, config.output)
    )
    if not inputs or not outputs:
        raise AdmissionRefused(Check.FORMATS, f"{path!r} names no inputs or no outputs", "an ensemble has both")
    return Signature(inputs, outputs, is_batched)


def _datatype(path: str, tensor: model_config_pb2.ModelInput | model_config_pb2.ModelOutput) -> str:
    name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    datatype = "BYTES" if name == "STRING" else name
    if datatype not in DATATYPES:
        raise AdmissionRefused(
            Check.FORMATS, f"{path!r} gives {tensor.name[:100]!r} no data_type of the protocol", "such as TYPE_FP32"
        )
    return datatype
