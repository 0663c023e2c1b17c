"""The replica's own HTTP/1.1 listener: sockets and framing, nothing of the protocol that travels inside.

The only client is Envoy. A gRPC call arrives as an HTTP/1.1 POST and its reply ends in chunked trailers (RFC 9112
§7.1.2), because Envoy translates; so one small server carries both.

Built on httptools (llhttp) and asyncio's callbacks instead of an ASGI server: no task and no future per request.
Measured with `python -m benchmarks.listener` (wrk, 32 connections): 10 µs of CPU per small request, where raw ASGI on
uvicorn, with the same parser and loop, takes 25 µs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from hmac import compare_digest
from types import MappingProxyType
from typing import cast

import httptools

from serving.errors import STATUS, BadRequest, Forbidden, ScoringError, TooLarge
from serving.exchange import Cancel, Handler, HttpRequest, HttpResponse, StreamHandler
from serving.http_writing import write_response
from serving.stream_connection import StreamConnection

GATEWAY_HEADER = b"x-crossfade-gateway"

_HANDSHAKE_TIMEOUT_S = 10.0


class Listener:
    """Accepts connections and hands whole requests to `handler`.

    `token`: requests without this value in `x-crossfade-gateway` are refused with 403: they did not come through Envoy.
    An empty token switches the check off (for the control plane's private socket).
    `max_body_bytes`: bodies above it are refused with 413 before they are buffered. `streams`: path → who answers there
    while the request still comes; the limit is theirs to keep.
    """

    def __init__(
        self,
        handler: Handler,
        token: bytes,
        max_body_bytes: int,
        streams: Mapping[bytes, StreamHandler] = MappingProxyType({}),
    ) -> None:
        self.handler = handler
        self.token = token
        self.max_body_bytes = max_body_bytes
        self.streams = streams
        self.is_closing = False
        self._connections: set[_Connection | StreamConnection] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._server: asyncio.Server | None = None
        self._path: str | None = None

    async def open_unix(self, path: str) -> None:
        """Listen on a unix socket that only this user may open. A stale socket file is replaced."""
        loop = asyncio.get_running_loop()
        _remove(path)
        mask = os.umask(0o177)
        try:
            self._server = await loop.create_unix_server(lambda: _Connection(self), path, backlog=1024)
        finally:
            os.umask(mask)
        self._path = path

    async def open_tcp(self, ip: str, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen on one address; port 0 takes a free one. Returns the port. Without `tls`, it speaks plain text."""
        loop = asyncio.get_running_loop()
        patience_s = _HANDSHAKE_TIMEOUT_S if tls else None
        self._server = await loop.create_server(
            lambda: _Connection(self), ip, port, backlog=1024, ssl=tls, ssl_handshake_timeout=patience_s
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    @property
    def in_flight(self) -> int:
        """Requests whose reply has not been written yet."""
        return sum(connection.is_busy for connection in self._connections)

    async def close(self, grace_s: float) -> None:
        """Stop accepting, let requests under way finish for at most `grace_s` seconds, then cut what is left."""
        self.is_closing = True
        if self._server is not None:
            self._server.close()
        if self._path is not None:
            _remove(self._path)
        for connection in tuple(self._connections):
            connection.close_when_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._is_empty.wait()
        for connection in tuple(self._connections):
            connection.abort()

    def adopt(self, connection: _Connection | StreamConnection) -> None:
        self._connections.add(connection)
        self._is_empty.clear()

    def forget(self, connection: _Connection | StreamConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._is_empty.set()


class _Connection(asyncio.Protocol):
    """One keep-alive connection: parses a request, waits for its reply, parses the next."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._handler = listener.handler
        self._token = listener.token
        self._streams = listener.streams
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._request_headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._keep_alive = True
        self._cancel: Cancel | None = None
        self._stream: StreamConnection | None = None  # who has taken over
        # Requests that came before the reply to the one under way: parsed already, and as bytes.
        self._waiting: deque[tuple[HttpRequest, bool]] = deque()
        self._early = bytearray()
        self.is_busy = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by inheritance
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener.adopt(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.is_busy = False
        self._listener.forget(self)
        if self._cancel is not None:
            cancel, self._cancel = self._cancel, None
            cancel()

    def data_received(self, data: bytes) -> None:
        if self.is_busy or self._waiting or self._early:
            # Envoy does not pipeline; whoever does is served in order, within the body limit.
            self._early += data
            if len(self._early) > self._listener.max_body_bytes:
                self.abort()
            return
        try:
            self._parser.feed_data(data)
        except ScoringError as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            # Errors raised by our own callbacks arrive wrapped.
            cause = error.__context__
            self._refuse(cause if isinstance(cause, ScoringError) else BadRequest(f"malformed HTTP: {error}"))

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url  # in pieces, where the reads were cut within it

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        # Trailers, which the parser reports as headers too, get a dictionary of their own that nobody reads.
        self._request_headers, self._headers = self._headers, {}
        token = self._token
        if token and not compare_digest(self._request_headers.get(GATEWAY_HEADER, b""), token):
            raise Forbidden("requests must come through the gateway")
        if self._parser.should_upgrade():
            raise BadRequest("protocol upgrades are not offered")
        declared = self._request_headers.get(b"content-length")
        if declared is not None and int(declared) > self._listener.max_body_bytes:
            raise TooLarge(f"the body has {int(declared)} bytes, the limit is {self._listener.max_body_bytes}")
        open_stream = self._streams.get(self._url)
        if open_stream is not None:
            self._hand_over(open_stream)

    def on_body(self, body: bytes) -> None:
        if self._stream is not None:
            self._stream.body(body)
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._listener.max_body_bytes:
            raise TooLarge(f"the body is over the limit of {self._listener.max_body_bytes} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._stream is not None:
            self._stream.complete()
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []  # the request may wait long for its answer, and not need its body
        path = self._url if b"?" not in self._url else self._url.partition(b"?")[0]
        request = HttpRequest(self._parser.get_method(), path, self._request_headers, body)
        keep_alive = self._parser.should_keep_alive()
        if self.is_busy or self._waiting:
            self._waiting.append((request, keep_alive))
        else:
            self._handle(request, keep_alive)

    def _hand_over(self, handler: StreamHandler) -> None:
        """To a `StreamConnection`, for good. The rest of what was read comes to it through the parser."""
        transport = self._transport
        if self.is_busy or self._waiting or self._stream is not None or transport is None:
            raise BadRequest("a stream begins on a connection without other requests")
        self._stream = StreamConnection(transport, self._parser, self._listener.forget)
        self._listener.adopt(self._stream)
        self._listener.forget(self)
        transport.set_protocol(self._stream)
        self._stream.open(handler, HttpRequest(self._parser.get_method(), self._url, self._request_headers, b""))

    def _handle(self, request: HttpRequest, keep_alive: bool) -> None:
        self._keep_alive = keep_alive and not self._listener.is_closing
        self.is_busy = True
        cancel = self._handler(request, self._reply)
        if self.is_busy:
            self._cancel = cancel

    # -- replies

    def _reply(self, response: HttpResponse) -> None:
        transport = self._transport
        self.is_busy = False
        self._cancel = None
        if transport is None:
            return
        write_response(transport, response, self._keep_alive)
        if not self._keep_alive or self._listener.is_closing:
            transport.close()
        elif self._waiting or self._early:
            # Not at once: a handler that answers during the call would nest as deep as requests wait.
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take up what came early."""
        if self._transport is None or self.is_busy:
            return
        if self._waiting:
            self._handle(*self._waiting.popleft())
        elif self._early:
            early, self._early = bytes(self._early), bytearray()
            self.data_received(early)

    def _refuse(self, error: ScoringError) -> None:
        """Answer and close: what follows on this connection cannot be trusted, or is not wanted."""
        if self._transport is None:
            return
        if self.is_busy or self._waiting or self._stream is not None:
            self.abort()  # an answer now would be taken for that to an earlier request
            return
        status = STATUS[type(error)][0]
        message = str(error).replace("\\", "\\\\").replace('"', '\\"')
        body = f'{{"error": "{message}"}}'.encode("ascii", "replace")
        self._keep_alive = False
        write_response(
            self._transport, HttpResponse(status, [(b"content-type", b"application/json")], [body]), keep_alive=False
        )
        self._transport.close()

    # -- closing

    def close_when_idle(self) -> None:
        self._keep_alive = False
        if not self.is_busy and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
