"""A model that answers as the test says, and the calls to a protocol handler, without sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from tritonclient.grpc import service_pb2

from serving.errors import ScoringError
from serving.exchange import Cancel, Handler, HttpRequest, HttpResponse
from serving.messages import InferReply, InferRequest
from serving.protocol import ProtocolSettings, model_handler
from serving.server_view import IndexEntry, ServerView
from serving.signature import Signature, TensorSpec
from serving.statistics import ModelStatistics

NAME = "fraud"
VERSION = "3"
NOW_S = 1000.0
GRPC = {b"content-type": b"application/grpc"}

ROWS_OF_TWO = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), is_batchable=True)

TWO_INPUTS = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "BYTES", (-1,))),
    (TensorSpec("c", "FP32", (-1, 2)), TensorSpec("d", "BYTES", (-1,))),
    is_batchable=True,
)


def one_tensor(datatype: str, shape: tuple[int, ...], is_batchable: bool = False) -> Signature:
    """One input `x` and one output `y` of the same datatype and shape."""
    return Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", datatype, shape),), is_batchable)


class ScriptedModel:
    """Echoes its inputs as its outputs, in order, unless `answer` is given. `hold` keeps replies back in `held`."""

    name = NAME
    version = VERSION

    def __init__(
        self,
        signature: Signature = ROWS_OF_TWO,
        answer: Callable[[InferRequest], InferReply | ScoringError] | None = None,
        hold: bool = False,
        stats: ModelStatistics | None = None,
    ) -> None:
        self.signature = signature
        self.max_batch_size = 64 if signature.is_batchable else 0
        self.is_ready = True
        self.requests: list[InferRequest] = []
        self.deadlines_s: list[float] = []
        self.held: list[Callable[[], None]] = []
        self.cancelled = 0
        self._answer = answer or self._echo
        self._hold = hold
        self._stats = stats or ModelStatistics()

    def infer(
        self, request: InferRequest, deadline_s: float, reply: Callable[[InferReply | ScoringError], None]
    ) -> Cancel:
        self.requests.append(request)
        self.deadlines_s.append(deadline_s)
        if self._hold:
            self.held.append(lambda: reply(self._answer(request)))
        else:
            reply(self._answer(request))
        return self._cancel

    @property
    def pending(self) -> int:
        return len(self.held)

    def statistics(self) -> ModelStatistics:
        return self._stats

    def _cancel(self) -> None:
        self.cancelled += 1

    def _echo(self, request: InferRequest) -> InferReply:
        arrays = list(request.inputs.values())
        outputs = {
            spec.name: (spec.name, spec.datatype, array)
            for spec, array in zip(self.signature.outputs, arrays, strict=True)
        }
        names = [output.name for output in request.outputs] or list(outputs)
        return InferReply(NAME, VERSION, request.id, [outputs[name] for name in names])


def view() -> ServerView:
    return ServerView(
        "1.2.3", True, (IndexEntry(NAME, VERSION, "READY"), IndexEntry("other", "1", "UNAVAILABLE", "it is broken"))
    )


def handler_of(model: ScriptedModel, max_request_bytes: int = 1 << 20) -> Handler:
    return model_handler(model, view, ProtocolSettings(max_request_bytes=max_request_bytes), now_s=lambda: NOW_S)


def call(
    handler: Handler, method: str, path: str, body: bytes = b"", headers: Mapping[bytes, bytes] | None = None
) -> HttpResponse:
    """The reply to a request that is answered during the call."""
    replies: list[HttpResponse] = []
    handler(HttpRequest(method.encode(), path.encode(), dict(headers or {}), body), replies.append)
    assert len(replies) == 1
    return replies[0]


def infer(
    handler: Handler, document: Any, headers: Mapping[bytes, bytes] | None = None, blobs: bytes = b""
) -> HttpResponse:
    """POST an infer request; `document` is sent as JSON (bytes as they are), followed by `blobs`."""
    text = document if isinstance(document, bytes) else orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = dict(headers or {})
    if blobs:
        headers[b"inference-header-content-length"] = str(len(text)).encode()
    return call(handler, "POST", f"/v2/models/{NAME}/infer", text + blobs, headers)


def body_of(response: HttpResponse) -> bytes:
    return b"".join(bytes(part) for part in response.body)


def json_of(response: HttpResponse) -> Any:
    return orjson.loads(body_of(response))


def header(response: HttpResponse, name: bytes) -> bytes | None:
    return dict(response.headers).get(name)


def error_of(response: HttpResponse) -> str:
    """The message of an HTTP error."""
    assert response.status >= 400
    assert header(response, b"content-type") == b"application/json"
    document = json_of(response)
    assert list(document) == ["error"]
    return document["error"]


def frame(message: Any) -> bytes:
    """A message, or the bytes of one, as an uncompressed gRPC frame."""
    text = message if isinstance(message, bytes) else message.SerializeToString()
    return b"\0" + len(text).to_bytes(4, "big") + text


def grpc_call(
    handler: Handler, method: str, message: Any, headers: Mapping[bytes, bytes] | None = None, path: str = ""
) -> HttpResponse:
    path = path or f"/inference.GRPCInferenceService/{method}"
    return call(handler, "POST", path, frame(message), {**GRPC, **(headers or {})})


def message_of(response: HttpResponse, kind: Any) -> Any:
    """The message of a successful gRPC reply."""
    assert response.status == 200
    assert list(response.trailers or ()) == [(b"grpc-status", b"0")], response.headers
    body = body_of(response)
    assert body[:5] == b"\0" + (len(body) - 5).to_bytes(4, "big")
    return kind.FromString(body[5:])


def grpc_status(response: HttpResponse) -> tuple[int, bytes]:
    """Code and (still encoded) message of a failed gRPC reply, which is trailers-only."""
    assert response.status == 200
    assert response.trailers is None
    assert body_of(response) == b""
    assert header(response, b"content-type") == b"application/grpc"
    return int(header(response, b"grpc-status") or b"-1"), header(response, b"grpc-message") or b""


def raw_request(**arrays: np.ndarray) -> Any:
    """A ModelInferRequest with raw contents; the datatypes are those of FP32 and INT64 arrays."""
    names = {"float32": "FP32", "int64": "INT64"}
    message = service_pb2.ModelInferRequest(model_name=NAME)
    for name, array in arrays.items():
        message.inputs.add(name=name, datatype=names[array.dtype.name], shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    return message


def x(data=(1.0, 2.0), shape=(1, 2), **changes):
    """An infer document for ROWS_OF_TWO."""
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data} | changes]}
