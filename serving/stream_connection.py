"""A connection of the listener from the head of a stream's request on: body in and reply out at the same time.

The connection is the stream's alone, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import httptools

from serving.exchange import (
    Cancel,
    Handler,
    Header,
    HttpRequest,
    HttpResponse,
    RequestStream,
    StreamHandler,
    StreamReply,
)
from serving.http_writing import write_chunk, write_response, write_stream_end, write_stream_head

log = logging.getLogger(__name__)

# How long Envoy may take to close after a reply that ended before its request. Closing first, with bytes of the
# request unread, could cost it the end of the reply (RFC 9112 §9.6).
_LINGER_S = 5.0


class StreamConnection(asyncio.Protocol):
    """Takes a connection over from the listener, whose parser goes on telling: `body` and `complete`.

    Implements `StreamReply`. `forget` is called when the connection has ended.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        parser: httptools.HttpRequestParser,
        forget: Callable[[StreamConnection], None],
    ) -> None:
        self._transport: asyncio.Transport | None = transport
        self._parser = parser
        self._forget = forget
        self._stream: RequestStream | None = None
        self._is_complete = False
        self._is_paused = False
        self.is_full = False
        self.is_busy = True  # until the reply has ended

    def open(self, handler: StreamHandler, request: HttpRequest) -> None:
        stream = handler(request, self)
        if self.is_busy:
            self._stream = stream

    # -- what the parser found

    def body(self, data: bytes) -> None:
        if self._stream is not None and not self._is_complete:
            self._stream.received(data)

    def complete(self) -> None:
        if self._stream is not None and not self._is_complete:
            self._is_complete = True
            self._stream.ended()

    # -- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if not self.is_busy:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                log.error("a stream could not be read", exc_info=error)
            self.abort()

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._stream is not None:
            self._stream.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.is_busy = False
        self._forget(self)
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancelled()

    # -- StreamReply

    def begin(self, headers: Sequence[Header]) -> None:
        if self._transport is not None:
            write_stream_head(self._transport, headers)

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        if self._transport is not None:
            write_chunk(self._transport, parts)

    def end(self, trailers: Sequence[Header]) -> None:
        if self._transport is not None:
            write_stream_end(self._transport, trailers)
            self._finish(self._transport)

    def refuse(self, response: HttpResponse) -> None:
        if self._transport is not None:
            write_response(self._transport, response, keep_alive=False)
            self._finish(self._transport)

    def pause_reading(self) -> None:
        if not self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def _finish(self, transport: asyncio.Transport) -> None:
        self.is_busy = False
        self._stream = None
        if self._is_complete:
            transport.close()
        else:
            self.resume_reading()
            asyncio.get_running_loop().call_later(_LINGER_S, self.abort)

    # -- closing

    def close_when_idle(self) -> None:
        if self._stream is not None:
            self._stream.close_soon()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def answered_unread(handler: Handler) -> StreamHandler:
    """Streams answered as whole requests are, by their heads: the body is dropped as it comes. Envoy keeps a copy."""

    def open_stream(request: HttpRequest, reply: StreamReply) -> RequestStream | None:
        cancel = handler(request, reply.refuse)
        return None if cancel is None else _Unread(cancel)

    return open_stream


class _Unread:
    """Implements `RequestStream`."""

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel

    def received(self, data: bytes) -> None:
        """What came with the head."""

    def ended(self) -> None: ...

    def drained(self) -> None: ...

    def cancelled(self) -> None:
        self._cancel()

    def close_soon(self) -> None: ...
