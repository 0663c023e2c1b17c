"""The infer call as a stream (ModelStreamInfer): many requests and their answers in one call, both ways at once.

Requests go to the model as they come, so those of one stream share batches. Answers are written in the order of the
requests, each as soon as those before it are. What is wrong with one request is its answer (`error_message`), and the
stream goes on, as Triton has it. The stream as a whole fails when its bytes cannot be told apart into messages, and
when this replica stops: what was not answered then can be sent again on another stream.

The reply begins with the first answer. Before that a stream can still be moved: Envoy keeps what came so far, and sends
it to another replica when this one dies, or says that it is stopping.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from serving.errors import BadRequest, MethodNotAllowed, ScoringError, Unavailable, UnsupportedEncoding
from serving.exchange import Cancel, HttpRequest, RequestStream, StreamReply
from serving.grpc_framing import (
    HEADERS,
    OK,
    Frame,
    FrameReader,
    framed,
    grpc_error_response,
    grpc_status,
    is_grpc,
    parsed_timeout_s,
)
from serving.infer_calls import decoding_failure, encoding_failure
from serving.messages import InferReply
from serving.model_contract import ModelContract
from serving.oip_grpc import GrpcCodec, varint
from serving.parameters import timeout_s
from serving.ports import ScoringModel
from serving.replies import error_message

# Requests of one stream that are with the model, or answered and not yet written. Two full batches of the usual size:
# one runs while the next one gathers.
MAX_UNDER_WAY = 128

_INFER_RESPONSE_TAG = b"\x12"  # ModelStreamInferResponse.infer_response: field 2, length-delimited
# Triton says of every answer on a stream whether it is the last one to its request.
_FINAL = service_pb2.ModelInferResponse(
    parameters={"triton_final_response": service_pb2.InferParameter(bool_param=True)}
).SerializeToString()
_LEAVING = Unavailable("this replica is stopping: open another stream, and send again what was not answered")

_Parts = Sequence[bytes | memoryview]


class StreamedInfer:
    """`open` is a `StreamHandler`. `now_s` is the clock of the model's deadlines.

    `max_request_bytes`: of one message, and of all that one stream has under way. `request_timeout_s`: of one request,
    from when it is read.
    """

    def __init__(
        self, model: ScoringModel, max_request_bytes: int, request_timeout_s: float, now_s: Callable[[], float]
    ) -> None:
        self.model = model
        self.max_request_bytes = max_request_bytes
        self.request_timeout_s = request_timeout_s
        self.now_s = now_s
        self._codec: GrpcCodec | None = None

    def open(self, request: HttpRequest, reply: StreamReply) -> RequestStream | None:
        headers = request.headers
        try:
            if not is_grpc(headers):
                raise UnsupportedEncoding("this is a gRPC method, its content-type is application/grpc")
            if request.method != b"POST":
                raise MethodNotAllowed("gRPC calls are POST requests")
            if not self.model.is_ready:
                raise Unavailable(f"model {self.model.name!r} is not ready")
            timeout = headers.get(b"grpc-timeout")
            ends_s = inf if timeout is None else self.now_s() + parsed_timeout_s(timeout)
            codec = self._codec or self._make_codec()
        except ScoringError as error:
            reply.refuse(grpc_error_response(error))
            return None
        return _InferStream(self, codec, headers.get(b"grpc-encoding", b"identity"), ends_s, reply)

    def _make_codec(self) -> GrpcCodec:
        model = self.model
        self._codec = GrpcCodec(ModelContract(model.signature, model.max_batch_size), model.name, model.version)
        return self._codec


class _Request:
    """One request of the stream. `answer`: as a frame, once there is one."""

    __slots__ = ("answer", "cancel", "is_turned_away", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.answer: _Parts | None = None
        self.cancel: Cancel | None = None
        self.is_turned_away = False  # the stream ends where its answer would be


class _Complete:
    """The client has sent all it wants to, and all of it is taken."""


class _InferStream:
    """Implements `RequestStream`."""

    def __init__(
        self, infer: StreamedInfer, codec: GrpcCodec, encoding: bytes, ends_s: float, reply: StreamReply
    ) -> None:
        self._infer = infer
        self._codec = codec
        self._encoding = encoding
        self._ends_s = ends_s
        self._reply = reply
        self._reader = FrameReader(infer.max_request_bytes)
        self._requests: deque[_Request] = deque()  # under way, oldest first
        self._bytes_under_way = 0
        self._has_ended = False
        self._has_begun = False
        # Once this is known no request is taken any more, and the stream ends with it when all are answered.
        self._end: _Complete | ScoringError | None = None
        self._is_over = False
        self._is_turning = False

    def received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._turn()

    def ended(self) -> None:
        self._has_ended = True
        self._turn()

    def drained(self) -> None:
        self._turn()

    def cancelled(self) -> None:
        self._is_over = True
        self._cancel_all()

    def close_soon(self) -> None:
        if self._end is None:
            self._end = _LEAVING
        self._turn()

    def _turn(self) -> None:
        """Write what is due and take what there is room for, as long as the one makes the other possible."""
        if self._is_turning or self._is_over:
            return
        self._is_turning = True
        for _ in range(MAX_UNDER_WAY):
            self._write()
            if not self._take():
                break
        else:  # all of them answered at once: others have their turn now
            self._reply.pause_reading()
            asyncio.get_running_loop().call_soon(self._turn)
        self._is_turning = False
        if self._end is not None and not self._requests:
            self._is_over = True
            self._finish(self._end)

    def _finish(self, end: _Complete | ScoringError) -> None:
        if isinstance(end, ScoringError) and not self._has_begun:
            self._reply.refuse(grpc_error_response(end))
            return
        self._begin()
        self._reply.end(grpc_status(end) if isinstance(end, ScoringError) else OK)

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._reply.begin(HEADERS)

    def _write(self) -> None:
        requests = self._requests
        due: list[bytes | memoryview] = []
        while requests and not self._reply.is_full:
            first = requests[0]
            if first.is_turned_away:
                self._cancel_all()
                break
            if first.answer is None:
                break
            due += first.answer
            self._bytes_under_way -= first.size
            requests.popleft()
        if due:
            self._begin()
            self._reply.write(due)

    def _take(self) -> bool:
        """Hand the next request to the model. False when there is none, or no room; then the client is made to wait."""
        has_room = (
            len(self._requests) < MAX_UNDER_WAY
            and self._bytes_under_way < self._infer.max_request_bytes
            and not self._reply.is_full
        )
        if self._end is not None or not has_room:
            self._reply.pause_reading()
            return False
        try:
            frame = self._reader.take()
        except ScoringError as error:
            self._end = error
            return False
        if frame is not None:
            self._hand_over(frame)
            return True
        self._reply.resume_reading()
        if self._has_ended:
            is_whole = self._reader.is_empty
            self._end = _Complete() if is_whole else BadRequest("the stream ends in the middle of a message")
        return False

    def _hand_over(self, frame: Frame) -> None:
        infer = self._infer
        request = _Request(len(frame.data))
        self._requests.append(request)
        self._bytes_under_way += request.size
        message = b""
        try:
            message = frame.message(self._encoding, infer.max_request_bytes)
            if len(message) > request.size:  # it was compressed
                self._bytes_under_way += len(message) - request.size
                request.size = len(message)
            decoded = self._codec.decode(message)
        except Exception as error:
            request.answer = _failed(decoding_failure(error, infer.model.name), _id_in(message))
            return
        limit_s = infer.request_timeout_s
        if decoded.parameters:
            limit_s = min(limit_s, timeout_s(decoded.parameters) or inf)
        deadline_s = min(infer.now_s() + limit_s, self._ends_s)
        request.cancel = infer.model.infer(decoded, deadline_s, partial(self._answered, request, decoded.id))

    def _answered(self, request: _Request, id: str, outcome: InferReply | ScoringError) -> None:
        request.cancel = None
        match outcome:
            case Unavailable():
                request.is_turned_away = True
                self._end = _LEAVING
            case ScoringError():
                request.answer = _failed(outcome, id)
            case InferReply():
                try:
                    request.answer = _succeeded(*self._codec.encoded(outcome))
                except Exception as error:
                    request.answer = _failed(encoding_failure(error, self._infer.model.name), id)
        self._turn()

    def _cancel_all(self) -> None:
        for request in self._requests:
            if request.answer is None and request.cancel is not None:
                request.cancel()
        self._requests.clear()


def _succeeded(parts: Sequence[bytes | memoryview], size: int) -> _Parts:
    length = varint(size + len(_FINAL))
    whole = (_INFER_RESPONSE_TAG + length, *parts, _FINAL)
    return framed(whole, len(_INFER_RESPONSE_TAG) + len(length) + size + len(_FINAL))


def _failed(error: ScoringError, id: str) -> _Parts:
    message: bytes = service_pb2.ModelStreamInferResponse(
        error_message=error_message(error), infer_response=service_pb2.ModelInferResponse(id=id)
    ).SerializeToString()
    return framed((message,), len(message))


def _id_in(message: bytes) -> str:
    """The id of a request that is refused, so that the client knows which one it was."""
    try:
        return str(service_pb2.ModelInferRequest.FromString(message).id)
    except DecodeError:
        return ""
