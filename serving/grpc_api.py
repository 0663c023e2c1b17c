"""Every call of the protocol over gRPC except ModelInfer, and grpc.health.v1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2

from serving.addressing import served_model
from serving.descriptions import (
    Document,
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from serving.errors import MethodNotAllowed, NotImplementedHere, UnknownModel, UnknownRoute
from serving.exchange import HttpRequest, HttpResponse
from serving.grpc_framing import message_response, unframed
from serving.oip_grpc import parse_message
from serving.ports import ScoringModel
from serving.server_view import ServerView
from serving.text import quoted

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"

_NO_SHARED_MEMORY = "shared memory is not offered, send tensors in the request"
_NOT_OFFERED = {
    "RepositoryModelLoad": "models are deployed by the operator, clients cannot load them",
    "RepositoryModelUnload": "models are deployed by the operator, clients cannot unload them",
    "SystemSharedMemoryStatus": _NO_SHARED_MEMORY,
    "SystemSharedMemoryRegister": _NO_SHARED_MEMORY,
    "SystemSharedMemoryUnregister": _NO_SHARED_MEMORY,
    "CudaSharedMemoryStatus": _NO_SHARED_MEMORY,
    "CudaSharedMemoryRegister": _NO_SHARED_MEMORY,
    "CudaSharedMemoryUnregister": _NO_SHARED_MEMORY,
    "TraceSetting": "trace settings are not offered",
    "LogSettings": "log settings are not offered",
}

# Request type, reply type, and the function between: a parsed request to the reply as a document.
_Method = tuple[Any, Any, Callable[[Any], Document]]


class GrpcApi:
    """`model` is the model that this process serves; None in the control plane, which serves none."""

    def __init__(
        self, view: Callable[[], ServerView], model: ScoringModel | None, platform: str, max_request_bytes: int
    ) -> None:
        self._view = view
        self._model = model
        self._platform = platform
        self._max_request_bytes = max_request_bytes
        pb = service_pb2
        self._methods: dict[str, _Method] = {
            "ServerLive": (pb.ServerLiveRequest, pb.ServerLiveResponse, lambda _: {"live": True}),
            "ServerReady": (pb.ServerReadyRequest, pb.ServerReadyResponse, lambda _: {"ready": view().is_ready}),
            "ServerMetadata": (pb.ServerMetadataRequest, pb.ServerMetadataResponse, lambda _: server_metadata(view())),
            "RepositoryIndex": (pb.RepositoryIndexRequest, pb.RepositoryIndexResponse, self._index),
            "ModelReady": (pb.ModelReadyRequest, pb.ModelReadyResponse, self._model_ready),
            "ModelMetadata": (pb.ModelMetadataRequest, pb.ModelMetadataResponse, self._model_metadata),
            "ModelConfig": (pb.ModelConfigRequest, pb.ModelConfigResponse, self._model_config),
            "ModelStatistics": (pb.ModelStatisticsRequest, pb.ModelStatisticsResponse, self._model_statistics),
            # Reached where no model is served; a model's own infer path goes to InferCalls.
            "ModelInfer": (pb.ModelInferRequest, pb.ModelInferResponse, self._not_served),
        }
        self._health_methods: dict[str, _Method] = {
            "Check": (health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse, self._health),
        }

    def answer(self, request: HttpRequest, segments: Sequence[str]) -> HttpResponse:
        """`segments` are the path's: the service's own, or the model's path that the gateway makes of it.

        Raises `ScoringError`.
        """
        if request.method != b"POST":
            raise MethodNotAllowed("gRPC calls are POST requests")
        request_type, reply_type, respond = self._method(segments)
        message = parse_message(request_type, unframed(request.headers, request.body, self._max_request_bytes))
        reply: bytes = ParseDict(respond(message), reply_type()).SerializeToString()
        return message_response((reply,), len(reply))

    def _method(self, segments: Sequence[str]) -> _Method:
        methods = self._methods
        match segments:
            case [service, name] if service == SERVICE:
                pass
            case [service, name] if service == HEALTH_SERVICE:
                methods = self._health_methods
            case ["v2", "models", _, name] | ["v2", "models", _, "versions", _, name]:
                pass
            case _:
                raise UnknownRoute(f"unknown gRPC path {quoted('/' + '/'.join(segments))}")
        method = methods.get(name)
        if method is None:
            raise NotImplementedHere(_NOT_OFFERED.get(name, f"the method {quoted(name)} is not offered"))
        return method

    def _index(self, request: Any) -> Document:
        return {"models": repository_index(self._view(), request.ready)}

    def _model_ready(self, request: Any) -> Document:
        if self._model is None:
            is_ready = self._view().is_model_ready(request.name)
            if is_ready is None:
                raise UnknownModel(f"unknown model {quoted(request.name)}")
            return {"ready": is_ready}
        return {"ready": self._served(request.name, request.version).is_ready}

    def _model_metadata(self, request: Any) -> Document:
        return model_metadata(self._served(request.name, request.version), self._platform)

    def _model_config(self, request: Any) -> Document:
        return {"config": model_config(self._served(request.name, request.version), self._platform)}

    def _model_statistics(self, request: Any) -> Document:
        if request.name:
            return {"model_stats": [model_statistics(self._served(request.name, request.version))]}
        if self._model is None:
            raise NotImplementedHere("statistics are kept per model: name one")
        return {"model_stats": [model_statistics(self._model)]}

    def _not_served(self, request: Any) -> Document:
        self._served(request.model_name, request.model_version)
        raise UnknownRoute("infer is not answered on this path")

    def _health(self, request: Any) -> Document:
        name = request.service
        if name in ("", SERVICE):
            is_serving: bool | None = self._view().is_ready
        elif self._model is not None and name == self._model.name:
            is_serving = self._model.is_ready
        else:
            is_serving = self._view().is_model_ready(name)
        if is_serving is None:
            raise UnknownModel(f"unknown service {quoted(name)}")
        return {"status": "SERVING" if is_serving else "NOT_SERVING"}

    def _served(self, name: str, version: str) -> ScoringModel:
        return served_model(self._model, self._view, name, version)
