"""The infer call of one model, over HTTP and over gRPC: decode, hand to the model, encode what comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable

from serving.deadlines import deadline_s
from serving.errors import InternalFailure, MethodNotAllowed, ModelFailed, ScoringError, UnsupportedEncoding
from serving.exchange import Cancel, HttpRequest, Reply
from serving.grpc_framing import grpc_error_response, is_grpc, unframed
from serving.messages import InferReply
from serving.model_contract import ModelContract
from serving.oip_grpc import GrpcCodec
from serving.oip_http import HttpCodec
from serving.ports import ScoringModel
from serving.replies import error_response, method_not_allowed
from serving.witness import Witness

log = logging.getLogger(__name__)


class InferCalls:
    """`http` and `grpc` are `Handler`s. `now_s` is `time.monotonic`, the clock of the model's deadlines."""

    def __init__(
        self, model: ScoringModel, max_request_bytes: int, now_s: Callable[[], float], witness: Witness
    ) -> None:
        self._model = model
        self._max_request_bytes = max_request_bytes
        self._now_s = now_s
        self._witness = witness
        self._sampling = witness.sampling
        self._codecs: tuple[HttpCodec, GrpcCodec] | None = None

    def http(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        if request.method != b"POST":
            reply(method_not_allowed(b"POST"))
            return None
        key = self._sampling.chosen(request.headers, request.body) if self._sampling.is_on else None
        try:
            codec, _ = self._codecs or self._make_codecs()
            infer = codec.decode(request)
            deadline = deadline_s(request.headers, infer, self._now_s())
        except Exception as failure:
            error = decoding_failure(failure, self._model.name)
            reply(error_response(error))
            if key is not None:
                self._witness.saw(key, None, error)
            return None
        accept_encoding = request.headers.get(b"accept-encoding")

        def answer(outcome: InferReply | ScoringError) -> None:
            if isinstance(outcome, ScoringError):
                response = error_response(outcome)
            else:
                try:
                    response = codec.encode(infer, outcome, accept_encoding)
                except Exception as error:
                    outcome = encoding_failure(error, self._model.name)
                    response = error_response(outcome)
            reply(response)
            if key is not None:
                self._witness.saw(key, infer, outcome)

        return self._model.infer(infer, deadline, answer)

    def grpc(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        if not is_grpc(request.headers):
            reply(error_response(UnsupportedEncoding("this is a gRPC method, its content-type is application/grpc")))
            return None
        key = self._sampling.chosen(request.headers, request.body) if self._sampling.is_on else None
        try:
            if request.method != b"POST":
                raise MethodNotAllowed("gRPC calls are POST requests")
            _, codec = self._codecs or self._make_codecs()
            infer = codec.decode(unframed(request.headers, request.body, self._max_request_bytes))
            deadline = deadline_s(request.headers, infer, self._now_s())
        except Exception as failure:
            error = decoding_failure(failure, self._model.name)
            reply(grpc_error_response(error))
            if key is not None:
                self._witness.saw(key, None, error)
            return None

        def answer(outcome: InferReply | ScoringError) -> None:
            if isinstance(outcome, ScoringError):
                response = grpc_error_response(outcome)
            else:
                try:
                    response = codec.encode(outcome)
                except Exception as error:
                    outcome = encoding_failure(error, self._model.name)
                    response = grpc_error_response(outcome)
            reply(response)
            if key is not None:
                self._witness.saw(key, infer, outcome)

        return self._model.infer(infer, deadline, answer)

    def _make_codecs(self) -> tuple[HttpCodec, GrpcCodec]:
        """At the first request: the signature is known once the model has loaded. Raises `Unavailable` until then."""
        model = self._model
        contract = ModelContract(model.signature, model.max_batch_size)
        self._codecs = (
            HttpCodec(contract, self._max_request_bytes),
            GrpcCodec(contract, model.name, model.version),
        )
        return self._codecs


def decoding_failure(error: Exception, model: str) -> ScoringError:
    """Whatever a request does to the decoder, its caller gets a reply, and the connection goes on."""
    if isinstance(error, ScoringError):
        return error
    log.error("a request could not be decoded", extra={"model": model}, exc_info=error)
    return InternalFailure(f"the request could not be decoded ({type(error).__name__}); the replica's log says more")


def encoding_failure(error: Exception, model: str) -> ScoringError:
    """Outputs that cannot be encoded are the model's failure; the batch loop that called must not end with it."""
    if isinstance(error, ScoringError):
        return error
    log.error("outputs could not be encoded", extra={"model": model}, exc_info=error)
    return ModelFailed(f"the model's outputs could not be encoded: {error}")
