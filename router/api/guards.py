"""What every request must pass before any route sees it: the token, and the size of its body. Plain ASGI."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIVE_PATH = "/api/v1/live"
MAX_BODY_BYTES = 8 * 1024 * 1024  # specs of some ten thousand deployments


class Guards:
    """Refuses with 401 what does not show the token, with 413 what is too large; hands on the rest with its body."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] != LIVE_PATH and not self._is_allowed(scope):
            hint = "send 'Authorization: Bearer <token>'; the token is in <data-dir>/admin.token"
            await _refuse(send, 401, "unauthorized", "this call needs the admin token", hint)
            return
        body = await _read_body(receive)
        if body is None:
            message = f"the body is larger than {MAX_BODY_BYTES // 1024**2} MiB"
            await _refuse(send, 413, "too_large", message, "apply fewer documents at once")
            return
        await self._app(scope, _replaying(body, receive), send)

    def _is_allowed(self, scope: Scope) -> bool:
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(shown, self._wanted)


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


async def _refuse(send: Send, status: int, code: str, message: str, hint: str) -> None:
    body = orjson.dumps({"error": {"code": code, "message": message, "hint": hint}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    else:
        headers.append((b"connection", b"close"))  # the rest of the body is never read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
