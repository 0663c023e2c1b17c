"""Reads Triton's config.pbtxt with Triton's own messages. What it may say: router/models/triton_layout.py."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from router.models.ports import AdmissionRefused
from router.models.trial import Check
from router.models.triton_layout import TritonConfig

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
        given = {field.name for field, _ in config.ListFields()}
        warm_up = [each.input_data_file for warm_up in config.model_warmup for each in warm_up.inputs.values()]
        return TritonConfig(
            backend=config.backend,
            platform=config.platform,
            files=tuple(name for name in (config.default_model_filename, *warm_up) if name),
            loads=tuple(name for name in _LOADS if name in given)
            + tuple(name for name in _LOADING_PARAMETERS if name in config.parameters),
        )
