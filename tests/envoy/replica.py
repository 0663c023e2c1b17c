"""Replicas that do what a test tells them, on the real replica's listener."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from tritonclient.grpc import service_pb2

from router.domain.routing import Address, TcpAddress, UnixAddress
from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import Listener

TOKEN = "the-gateway-token"
MAX_BODY_BYTES = 1024 * 1024

Answer = Callable[[HttpRequest], HttpResponse | None]  # None: never answers


@dataclass(slots=True)
class Replica:
    """Answers every scoring request with its name; `answer` may be replaced to do something else.

    `tls`: as a replica on another host does, it listens at a port, over TLS.
    """

    name: str
    path: str
    requests: list[HttpRequest] = field(default_factory=list)
    checks: list[HttpRequest] = field(default_factory=list)
    cancelled: int = 0
    answer: Answer | None = None
    is_ready: bool = True
    holds_for_s: float = 0.0  # how long after a request its answer is sent
    tls: ssl.SSLContext | None = None
    _port: int = 0
    _listener: Listener | None = None

    async def start(self) -> Replica:
        self._listener = Listener(self._handle, token=TOKEN.encode(), max_body_bytes=64 * MAX_BODY_BYTES)
        if self.tls is not None:
            self._port = await self._listener.open_tcp("127.0.0.1", self._port, self.tls)
        else:
            await self._listener.open_unix(self.path)
        return self

    async def kill(self) -> None:
        """As a killed process would: the socket refuses, connections end without an answer."""
        if self._listener is not None:
            await self._listener.close(grace_s=0)
            self._listener = None

    @property
    def address(self) -> Address:
        return TcpAddress("127.0.0.1", self._port) if self.tls is not None else UnixAddress(self.path)

    def _handle(self, request: HttpRequest, reply: Reply) -> Cancel | None:
        if request.path.startswith(b"/v2/health/"):
            self.checks.append(request)
            reply(HttpResponse(200 if self.is_ready else 503, [], [b"{}"]))
            return None
        self.requests.append(request)
        response = self.answer(request) if self.answer else usual_answer(self.name, request)
        if response is None:
            return self._count_cancelled
        if self.holds_for_s:
            return asyncio.get_running_loop().call_later(self.holds_for_s, reply, response).cancel
        reply(response)
        return None

    def _count_cancelled(self) -> None:
        self.cancelled += 1


def not_begun_at_first(replica: Replica, request: HttpRequest) -> HttpResponse:
    """Of every two requests the first is to be tried again, and that one is answered."""
    if len(replica.requests) % 2:
        return HttpResponse(503, [(b"x-crossfade-retry", b"1")], [b"{}"])
    return usual_answer(replica.name, request)


def usual_answer(name: str, request: HttpRequest) -> HttpResponse:
    """Success, with the name of who answered as the model's name."""
    if request.headers.get(b"content-type", b"").startswith(b"application/grpc"):
        return grpc_answer(service_pb2.ModelInferResponse(model_name=name).SerializeToString())
    body = json.dumps({"model_name": name, "outputs": []}).encode()
    return HttpResponse(200, [(b"content-type", b"application/json")], [body])


def grpc_answer(message: bytes) -> HttpResponse:
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    return HttpResponse(200, [(b"content-type", b"application/grpc")], [frame], [(b"grpc-status", b"0")])
