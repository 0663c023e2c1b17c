"""The Open Inference Protocol v2 as a `Handler`: which call a request is, and who answers it. No sockets, no tasks.

`model_handler` is a replica's, `server_handler` the control plane's. Everything is answered during the call, except
infer, which is answered when the model has scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from urllib.parse import unquote, unquote_to_bytes

from serving.errors import ScoringError
from serving.exchange import Cancel, Handler, HttpRequest, HttpResponse, Reply, StreamHandler
from serving.grpc_api import SERVICE, GrpcApi
from serving.grpc_framing import grpc_error_response, is_grpc
from serving.http_api import HttpApi
from serving.infer_calls import InferCalls
from serving.infer_stream import StreamedInfer
from serving.ports import ScoringModel
from serving.replies import error_response
from serving.samples_api import PATH as SAMPLES_PATH
from serving.samples_api import samples_handler
from serving.server_view import ServerView
from serving.witness import Witness

View = Callable[[], ServerView]


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """`max_request_bytes` bounds what a compressed body may become. `platform` is told in metadata and config.

    `request_timeout_s`: of a request on a stream; for others it is Envoy that knows it.
    """

    max_request_bytes: int = 64 * 1024 * 1024
    request_timeout_s: float = inf
    platform: str = "onnxruntime_onnx"


_DEFAULTS = ProtocolSettings()


def model_handler(
    model: ScoringModel,
    view: View,
    settings: ProtocolSettings = _DEFAULTS,
    now_s: Callable[[], float] = time.monotonic,
    others: Mapping[bytes, Handler] = MappingProxyType({}),
) -> Handler:
    """Serves one model, and the calls about the server. `now_s` is the clock of the model's deadlines.

    `others`: path → who answers it instead.
    """
    witness = Witness(model, now_s)
    calls = InferCalls(model, settings.max_request_bytes, now_s, witness)
    of_model = f"/v2/models/{model.name}"
    of_version = f"{of_model}/versions/{model.version}"
    # The paths that nearly all requests have, whole, so that one look-up decides.
    infer_paths: dict[bytes, Handler] = {
        **others,
        f"{of_model}/infer".encode(): calls.http,
        f"{of_version}/infer".encode(): calls.http,
        f"{of_model}/ModelInfer".encode(): calls.grpc,
        f"{of_version}/ModelInfer".encode(): calls.grpc,
        f"/{SERVICE}/ModelInfer".encode(): calls.grpc,
        SAMPLES_PATH.encode(): samples_handler(witness.renew),
    }
    answer = _answering(view, model, settings)

    def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
        infer = infer_paths.get(request.path) or infer_paths.get(unquote_to_bytes(request.path.removesuffix(b"/")))
        if infer is not None:
            return infer(request, reply)
        reply(answer(request))
        return None

    return handle


def stream_handlers(
    model: ScoringModel, settings: ProtocolSettings = _DEFAULTS, now_s: Callable[[], float] = time.monotonic
) -> dict[bytes, StreamHandler]:
    """path → who answers the streams that come there."""
    infer = StreamedInfer(model, settings.max_request_bytes, settings.request_timeout_s, now_s)
    return dict.fromkeys(stream_paths(model.name, model.version), infer.open)


def stream_paths(model: str, version: str) -> tuple[bytes, ...]:
    prefixes = (f"/v2/models/{model}", f"/v2/models/{model}/versions/{version}", f"/{SERVICE}")
    return tuple([f"{prefix}/ModelStreamInfer".encode() for prefix in prefixes])


def server_handler(view: View, settings: ProtocolSettings = _DEFAULTS) -> Handler:
    """Serves the calls about the server. Calls about a model learn that it has no replica, or that there is none."""
    answer = _answering(view, None, settings)

    def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
        reply(answer(request))
        return None

    return handle


def _answering(
    view: View, model: ScoringModel | None, settings: ProtocolSettings
) -> Callable[[HttpRequest], HttpResponse]:
    http = HttpApi(view, model, settings.platform)
    grpc = GrpcApi(view, model, settings.platform, settings.max_request_bytes)

    def answer(request: HttpRequest) -> HttpResponse:
        segments = _segments(request.path)
        if is_grpc(request.headers):
            try:
                return grpc.answer(request, segments)
            except ScoringError as error:
                return grpc_error_response(error)
        try:
            return http.answer(request, segments)
        except ScoringError as error:
            return error_response(error)

    return answer


def _segments(path: bytes) -> list[str]:
    """The path between its slashes, percent-decoded. One slash at the end makes no difference."""
    return [unquote(segment) for segment in path.removeprefix(b"/").removesuffix(b"/").decode("latin-1").split("/")]
