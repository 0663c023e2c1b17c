"""What every request must pass before any route sees it: the token, the role, and the size of its body. Plain ASGI.

What is not named here needs an operator's token to change anything and a viewer's to look: a new route is never open by
mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.access import Access, FailedLogins
from router.api.operator import SCOPE_KEY, source_of
from router.api.transfers import ARCHIVE_PATH
from router.domain.access import Operator, Role
from router.ports import AuditLog

LIVE_PATH = "/api/v1/live"
MAX_BODY_BYTES = 8 * 1024 * 1024  # specs of some ten thousand deployments
_ADMINS = ("/api/v1/tokens", "/api/v1/quotas", "/api/v1/audit")
_STREAMED = (ARCHIVE_PATH,)  # the route itself bounds what it takes
_LOOKING = ("GET", "HEAD")


class Guards:
    """Refuses with 401 what shows no valid token (429 when that happens often), with 403 what its role may not do,
    with 413 what is too large; hands on the rest with its body and its operator."""

    def __init__(self, app: ASGIApp, access: Access, audit: AuditLog) -> None:
        self._app = app
        self._access = access
        self._audit = audit
        self._failures = FailedLogins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] != LIVE_PATH:
            operator = self._operator(scope)
            if operator is None:
                await self._refuse_unknown(source_of(scope), send)
                return
            needed = role_needed(scope["method"], scope["path"])
            if not operator.may(needed):
                message = f"the token {operator.name!r} is a {operator.role}'s: this call needs the role {needed}"
                await _refuse(send, 403, "forbidden", message, "ask an admin for a token: crossfade token create")
                return
            scope = {**scope, SCOPE_KEY: operator}
        if scope["path"] in _STREAMED:
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:
            message = f"the body is larger than {MAX_BODY_BYTES // 1024**2} MiB"
            await _refuse(send, 413, "too_large", message, "apply fewer documents at once")
            return
        await self._app(scope, _replaying(body, receive), send)

    def _operator(self, scope: Scope) -> Operator | None:
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, secret = shown.decode("latin-1").partition(" ")
        return self._access.operator(secret.strip()) if kind.lower() == "bearer" else None

    async def _refuse_unknown(self, source: str, send: Send) -> None:
        now = self._access.now()
        wait_s, is_first = self._failures.note(source, now)
        if is_first:
            await asyncio.to_thread(self._audit.add, (self._failures.record(source, now),))
        if wait_s:
            hint = f"wait {wait_s} s; a valid token is taken all the time"
            await _refuse(send, 429, "too_many_failures", "too many calls without a valid token", hint, wait_s)
            return
        hint = "send 'Authorization: Bearer <token>'; the first token is in <data-dir>/admin.token"
        await _refuse(send, 401, "unauthorized", "this call needs a valid admin token", hint)


def role_needed(method: str, path: str) -> Role:
    if any(path == prefix or path.startswith(f"{prefix}/") for prefix in _ADMINS):
        return Role.ADMIN
    return Role.VIEWER if method in _LOOKING else Role.OPERATOR


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None as soon as it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replaying(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A `receive` that gives the body once and then what really arrives, such as the caller's disconnect."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _refuse(send: Send, status: int, code: str, message: str, hint: str, retry_after_s: int = 0) -> None:
    body = orjson.dumps({"error": {"code": code, "message": message, "hint": hint}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    elif status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is never read
    elif retry_after_s:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
