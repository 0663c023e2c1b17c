"""Every call of the protocol over HTTP except infer: health, metadata, config, statistics, repository index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from serving.addressing import served_model
from serving.descriptions import (
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from serving.errors import BadRequest, NotImplementedHere, Unavailable, UnknownRoute
from serving.exchange import HttpRequest, HttpResponse
from serving.oip_http import parse_json
from serving.ports import ScoringModel
from serving.replies import JSON_TYPE, json_response, method_not_allowed
from serving.server_view import ServerView
from serving.text import quoted

# The one HTTP method of a path, and what answers it.
_Route = tuple[bytes, Callable[[HttpRequest], HttpResponse]]


class HttpApi:
    """`model` is the model that this process serves; None in the control plane, which serves none."""

    def __init__(self, view: Callable[[], ServerView], model: ScoringModel | None, platform: str) -> None:
        self._view = view
        self._model = model
        self._platform = platform

    def answer(self, request: HttpRequest, segments: Sequence[str]) -> HttpResponse:
        """`segments` are the path's. Raises `ScoringError`."""
        method, respond = self._route(segments)
        if request.method != method:
            return method_not_allowed(method)
        return respond(request)

    def _route(self, segments: Sequence[str]) -> _Route:
        match segments:
            case ["v2"]:
                return b"GET", lambda _: json_response(server_metadata(self._view()))
            case ["v2", "health", "live"]:
                return b"GET", lambda _: json_response({"live": True})
            case ["v2", "health", "ready"]:
                return b"GET", lambda _: self._server_ready()
            case ["v2", "repository", "index"] | ["v2", "repository", _, "index"]:
                return b"POST", self._index
            case ["v2", "repository", *_, ("load" | "unload") as action]:
                raise NotImplementedHere(f"models are deployed by the operator, clients cannot {action} them")
            case ["v2", ("systemsharedmemory" | "cudasharedmemory"), *_]:
                raise NotImplementedHere("shared memory is not offered, send tensors in the request")
            case ["v2", "trace", "setting"] | ["v2", "models", _, "trace", "setting"]:
                raise NotImplementedHere("trace settings are not offered")
            case ["v2", "logging"]:
                raise NotImplementedHere("log settings are not offered")
            case ["v2", "models", "stats"]:
                return b"GET", lambda _: self._all_statistics()
            case ["v2", "models", name, "versions", version, *rest]:
                return self._model_route(served_model(self._model, self._view, name, version), rest)
            case ["v2", "models", name, *rest]:
                return self._model_route(served_model(self._model, self._view, name, ""), rest)
            case _:
                raise UnknownRoute(f"unknown path {quoted('/' + '/'.join(segments))}")

    def _model_route(self, model: ScoringModel, rest: Sequence[str]) -> _Route:
        match rest:
            case []:
                return b"GET", lambda _: json_response(model_metadata(model, self._platform))
            case ["ready"]:
                return b"GET", lambda _: _model_ready(model)
            case ["config"]:
                return b"GET", lambda _: json_response(model_config(model, self._platform))
            case ["stats"]:
                return b"GET", lambda _: json_response({"model_stats": [model_statistics(model)]})
            case ["generate" | "generate_stream"]:
                raise NotImplementedHere("the generate extension is not offered, use infer")
            case _:
                raise UnknownRoute(f"models have no {quoted('/'.join(rest))}")

    def _server_ready(self) -> HttpResponse:
        if self._view().is_ready:
            return json_response({"ready": True})
        # Both the health body and the error shape: some clients read one, some the other.
        return HttpResponse(
            503, (JSON_TYPE,), (orjson.dumps({"ready": False, "error": "not every endpoint with traffic is ready"}),)
        )

    def _index(self, request: HttpRequest) -> HttpResponse:
        ready_only = False
        if request.body:
            document = parse_json(request.body)
            if not isinstance(document, dict):
                raise BadRequest("the body must be empty or a JSON object")
            ready_only = document.get("ready", False)
            if not isinstance(ready_only, bool):
                raise BadRequest(f"'ready' must be true or false, got {quoted(ready_only)}")
        return json_response(repository_index(self._view(), ready_only))

    def _all_statistics(self) -> HttpResponse:
        if self._model is None:
            raise NotImplementedHere("statistics are kept per model: ask for /v2/models/<name>/stats")
        return json_response({"model_stats": [model_statistics(self._model)]})


def _model_ready(model: ScoringModel) -> HttpResponse:
    if not model.is_ready:
        raise Unavailable(f"model {model.name!r} is not ready")
    return json_response({"name": model.name, "ready": True})
