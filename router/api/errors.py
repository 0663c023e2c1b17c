"""Errors → HTTP replies: the one table of status codes of the admin API."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from router.api.operator import operator_of
from router.api.views import endpoint_view
from router.api.visibility import visible_names
from router.applying import latest_of
from router.domain.access import Operator
from router.domain.errors import Conflict, CrossfadeError, Forbidden, Invalid, ModelUnavailable, NotFound, StoreFailed
from router.models.ports import SourceUnavailable
from router.operations import Operations
from router.plan import RevisionConflict
from router.quotas import QuotaExceeded
from router.rollout_ports import Rollouts
from router.spec import OutOfReach, Problem, SpecProblems
from router.spec.problems import did_you_mean

# error -> (HTTP status, stable code). Looked up along the class's bases, so the nearest one counts.
_STATUS: dict[type[BaseException], tuple[int, str]] = {
    OutOfReach: (503, "source_unavailable"),
    SpecProblems: (422, "invalid"),
    Invalid: (422, "invalid"),
    SourceUnavailable: (503, "source_unavailable"),
    ModelUnavailable: (422, "model_unavailable"),
    NotFound: (404, "not_found"),
    RevisionConflict: (409, "revision_conflict"),
    QuotaExceeded: (409, "quota_exceeded"),
    Conflict: (409, "conflict"),
    Forbidden: (403, "forbidden"),
    StoreFailed: (503, "store_failed"),
    CrossfadeError: (500, "failed"),
}


class BadPrecondition(CrossfadeError):
    """The If-Match header is not a revision."""


_STATUS[BadPrecondition] = (400, "bad_precondition")


def add_error_replies(app: FastAPI, operations: Operations, rollouts: Rollouts) -> None:
    """Every error of this application leaves it as `{"error": {"code", "message", …}}`."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        status, code = next(_STATUS[base] for base in type(error).__mro__ if base in _STATUS)
        return _reply(status, code, _message(error), **_facts(error, operations, rollouts, operator_of(request.scope)))

    async def unexpected(_request: Request, _error: Exception) -> JSONResponse:
        """The server logs the traceback: Starlette raises the error again after this reply."""
        return _reply(500, "internal", "an unexpected error; the control plane's log has the details")

    app.add_exception_handler(CrossfadeError, known)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, unexpected)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        {"key": ".".join(str(part) for part in item["loc"]), "message": item["msg"], "hint": "", "document": None}
        for item in error.errors()
    ]
    words = "; ".join(f"{problem['key']}: {problem['message']}" for problem in problems)
    return _reply(422, "malformed_request", words, problems=problems)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _reply(error.status_code, "http", message, headers=dict(error.headers or {}))


def _message(error: Exception) -> str:
    if isinstance(error, SpecProblems):
        count = len(error.problems)
        return f"{count} problem{'s' if count > 1 else ''} in the input; nothing was changed"
    return str(error)


def _facts(error: Exception, operations: Operations, rollouts: Rollouts, operator: Operator) -> dict[str, Any]:
    """What a caller can act on, beside the message."""
    match error:
        case SpecProblems():
            return {"problems": [_problem(problem) for problem in error.problems]}
        case Invalid():
            return {"hint": error.hint, "problems": [_problem(Problem(error.key, error.message, error.hint))]}
        case NotFound(kind="endpoint"):
            known = visible_names(operations.desired, operator)
            return {"hint": did_you_mean(error.name, known), "known": list(known)}
        case NotFound():
            return {"hint": did_you_mean(error.name, error.known), "known": list(error.known)}
        case RevisionConflict() if error.endpoint in operations.desired.states:
            state = operations.desired.states[error.endpoint]
            view = endpoint_view(state, operations.status(error.endpoint), latest_of(rollouts, error.endpoint))
            return {"current": view.model_dump(mode="json")}
    return {}


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "key": problem.key,
        "message": problem.message,
        "hint": problem.hint,
        "document": problem.document,
    }


def _reply(
    status: int, code: str, message: str, *, hint: str = "", headers: dict[str, str] | None = None, **facts: Any
) -> JSONResponse:
    error = {"code": code, "message": message, "hint": hint, **facts}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
