"""An HTTP/1.1 exchange as the protocol layer sees it, no sockets: a whole request in, a whole response out; or a
stream, whose parts come and go as they are ready.

gRPC calls arrive here too: Envoy turns them into HTTP/1.1 POSTs whose replies end in trailers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Header = tuple[bytes, bytes]


class HttpRequest:
    """A request whose body has arrived. Header names are lower case; `path` is without the query, as bytes."""

    __slots__ = ("body", "headers", "method", "path")

    def __init__(self, method: bytes, path: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body


class HttpResponse:
    """`body` is sent as its parts, in order, unjoined. `trailers` (gRPC only) make the body chunked.

    `headers` are without content-length and transfer-encoding: framing is the listener's.
    """

    __slots__ = ("body", "headers", "status", "trailers")

    def __init__(
        self,
        status: int,
        headers: Sequence[Header],
        body: Sequence[bytes | memoryview] = (),
        trailers: Sequence[Header] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.trailers = trailers


Reply = Callable[[HttpResponse], None]
Cancel = Callable[[], None]

# Answers by calling `reply` exactly once, during the call or later on the same event loop. Returns a function that
# cancels work still under way (the client is gone; `reply` will then not be called), or None when already answered.
Handler = Callable[[HttpRequest, Reply], Cancel | None]


class StreamReply(Protocol):
    """How a stream is answered, while its request is still coming in. Never raises, also when the client is gone."""

    def begin(self, headers: Sequence[Header]) -> None:
        """Status 200. Once, before anything is written."""

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send these bytes. Whoever goes on while `is_full` lets memory grow."""

    def end(self, trailers: Sequence[Header]) -> None:
        """The last word. The rest of the request, if there is one, is not read."""

    def refuse(self, response: HttpResponse) -> None:
        """The whole answer, instead of all that."""

    def pause_reading(self) -> None:
        """Let the client wait: it can send no more than buffers on the way hold."""

    def resume_reading(self) -> None: ...

    @property
    def is_full(self) -> bool:
        """The client does not read as fast as it is written to; `RequestStream.drained` tells when it has."""


class RequestStream(Protocol):
    """A stream under way, as the listener tells of it. After the reply has ended nothing is told any more."""

    def received(self, data: bytes) -> None:
        """The next part of the request's body."""

    def ended(self) -> None:
        """The request is complete."""

    def drained(self) -> None:
        """There is room for more of the reply."""

    def cancelled(self) -> None:
        """The client is gone."""

    def close_soon(self) -> None:
        """This process is about to end: finish what is under way, take nothing more."""


# Opens a stream: called when a request's head has come (its `body` is empty). None when it has been answered already.
StreamHandler = Callable[[HttpRequest, StreamReply], RequestStream | None]
