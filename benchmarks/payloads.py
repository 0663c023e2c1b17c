"""The scoring request that every server gets, in each protocol, and the check that it was answered correctly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import orjson
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

_GRPC_PREFIX_BYTES = 5  # one flag, four bytes of length
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
_HEAD_MULTIPLE = 64
_JSON_TYPE = {"content-type": "application/json"}
Inputs = Mapping[str, np.ndarray]


class WrongAnswer(Exception):
    """A server's scores differ from the model's own."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request and the check of a 200 reply, which raises `WrongAnswer`."""

    body: bytes
    check: Callable[[httpx.Response], None]
    headers: Mapping[str, str] = field(default_factory=lambda: _JSON_TYPE)


@dataclass(frozen=True, slots=True)
class Payload:
    """One request to `model_name`, whose model has one output. `body`: in V2 JSON. `message`: in gRPC, raw contents.

    `expected` are the model's own scores.
    """

    body: bytes
    message: bytes
    expected: np.ndarray
    inputs: Inputs

    @property
    def frame(self) -> bytes:
        """`message` as gRPC sends it, with its length before it."""
        return framed(self.message)

    @property
    def json(self) -> Exchange:
        """V2 JSON."""
        return Exchange(self.body, lambda reply: self.check_json(reply.content))

    @property
    def rows(self) -> Exchange:
        """`{"rows": [[…]]}`, answered `[[…]]`: for servers without a protocol of their own; one FP32 input."""
        (array,) = self.inputs.values()
        body = orjson.dumps({"rows": array}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Exchange(body, lambda reply: self._check(np.array(orjson.loads(reply.content), np.float32)))

    @property
    def binary(self) -> Exchange:
        """V2 with Triton's binary extension, both ways."""
        body, headers = binary_request(self.inputs)
        return Exchange(body, lambda reply: self._check(binary_scores(reply.content, reply.headers)), headers)

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


def framed(message: bytes) -> bytes:
    """A gRPC message with its prefix: not compressed, and its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def payload_for(model: Path, model_name: str, inputs: Inputs | None = None) -> Payload:
    """`inputs` for a model with one FP32 output; without them a random row, always the same one, for one FP32 input."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    if inputs is None:
        (model_input,) = session.get_inputs()
        row = np.random.default_rng(0).standard_normal((1, model_input.shape[1])).astype(np.float32)
        inputs = {model_input.name: row}
    (scores,) = session.run(None, dict(inputs))
    message = service_pb2.ModelInferRequest(
        model_name=model_name,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(**_described(name, array)) for name, array in inputs.items()
        ],
        raw_input_contents=[array.tobytes() for array in inputs.values()],
    )
    tensors = [{**_described(name, array), "data": array.ravel()} for name, array in inputs.items()]
    body = orjson.dumps({"inputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Payload(body, message.SerializeToString(), scores.ravel(), inputs)


def binary_request(inputs: Inputs) -> tuple[bytes, dict[str, str]]:
    """(body, headers) of a V2 request in the binary extension, which also asks for a binary reply."""
    tensors = [
        {**_described(name, array), "parameters": {"binary_data_size": array.nbytes}} for name, array in inputs.items()
    ]
    head = orjson.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}})
    head += b" " * (-len(head) % _HEAD_MULTIPLE)  # white space, so that requests which differ in size share one header
    body = head + b"".join(array.tobytes() for array in inputs.values())
    return body, {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(head))}


def binary_scores(content: bytes, headers: Mapping[str, str]) -> np.ndarray:
    """The first output of a reply in the binary extension, FP32 and flat."""
    return np.frombuffer(content[int(headers[JSON_LENGTH_HEADER]) :], np.float32)


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": np_to_triton_dtype(array.dtype)}
