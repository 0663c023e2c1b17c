"""The one scoring request that every server gets, in each protocol, and the check that it was answered correctly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import orjson
from tritonclient.grpc import service_pb2

_GRPC_PREFIX_BYTES = 5  # one flag, four bytes of length


class WrongAnswer(Exception):
    """A server's scores differ from the model's own."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One row for `model_name`. `frame` is a length-prefixed gRPC message; `expected` are the model's own scores."""

    body: bytes
    message: bytes
    expected: np.ndarray

    @property
    def frame(self) -> bytes:
        return b"\0" + len(self.message).to_bytes(4, "big") + self.message

    def check_json(self, reply: bytes) -> None:
        """Raises `WrongAnswer`."""
        self._check(np.array(orjson.loads(reply)["outputs"][0]["data"], np.float32))

    def check_grpc(self, reply: bytes) -> int:
        """Returns the bytes that such a reply takes on the wire. Raises `WrongAnswer`."""
        message = service_pb2.ModelInferResponse.FromString(reply)
        self._check(np.frombuffer(message.raw_output_contents[0], np.float32))
        return _GRPC_PREFIX_BYTES + len(reply)

    def _check(self, scores: np.ndarray) -> None:
        if not np.allclose(scores.ravel(), self.expected, rtol=1e-4, atol=1e-5):
            raise WrongAnswer(f"{scores.ravel()} instead of {self.expected}")


def payload_for(model: Path, model_name: str, first: float | None = None) -> Payload:
    """A random row (always the same one) for a model with one FP32 input and one output. `first`: its first value."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()
    row = np.random.default_rng(0).standard_normal((1, model_input.shape[1])).astype(np.float32)
    if first is not None:
        row[0, 0] = first
    (scores,) = session.run(None, {model_input.name: row})
    tensor: dict[str, Any] = {"name": model_input.name, "shape": row.shape, "datatype": "FP32"}
    infer_input = service_pb2.ModelInferRequest.InferInputTensor(**tensor)
    message = service_pb2.ModelInferRequest(
        model_name=model_name, inputs=[infer_input], raw_input_contents=[row.tobytes()]
    )
    body = orjson.dumps({"inputs": [{**tensor, "data": row.ravel()}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Payload(body, message.SerializeToString(), scores.ravel())
