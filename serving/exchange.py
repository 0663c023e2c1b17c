"""An HTTP/1.1 exchange as the protocol layer sees it: a whole request in, a whole response out, no sockets.

gRPC calls arrive here too: Envoy turns them into HTTP/1.1 POSTs whose replies end in trailers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
