"""The calls by which Envoys tell of begun streams (stream_watch.py), and over which these are ended.

Decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2

from router.domain.begun_streams import Terms
from router.domain.routing import Routing
from router.domain.tls import BadCertificate, ClientTrust
from router.xds.doorkeeper import NOT_ADMITTED, Begun, Doorkeeper, Memory, Peers
from router.xds.stream_watch import end, endpoint_of, go_on, shown_in, terms_id, terms_of, trailers_go_on

log = logging.getLogger(__name__)

_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_LOOK_EVERY_S = 0.4

_GO_ON, _TRAILERS_GO_ON, _GO = go_on(), trailers_go_on(), end(NOT_ADMITTED)


@dataclass(slots=True)
class _Call:
    """One Envoy's call about one stream. It is written to by one at a time."""

    context: Any
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def write(self, message: bytes) -> None:
        async with self.writing:
            await self.context.write(message)


class StreamWatch:
    """Belongs to one event loop. `now` returns aware UTC.

    It waits to be released, as the configuration does: before, it does not know on what terms anybody is let in.
    """

    def __init__(self, peers: Peers, memory: Memory, now: Callable[[], datetime]) -> None:
        self._peers = peers
        self._now = now
        self._doorkeeper = Doorkeeper(peers, memory)
        self._calls: dict[Begun, _Call] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._released = asyncio.Event()

    def service(self) -> Any:
        """The gRPC service that Envoys call."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve, request_deserializer=external_processor_pb2.ProcessingRequest.FromString
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"Process": handler})

    def release(self) -> None:
        self._released.set()

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for task in self._ending:
            task.cancel()

    def set_endpoint(self, routing: Routing) -> None:
        self._end(routing.endpoint, self._doorkeeper.set_terms(routing.endpoint, Terms.of(routing)))
        self._look_again()

    def remove_endpoint(self, name: str) -> None:
        self._end(name, self._doorkeeper.set_terms(name, None))

    def set_client_trust(self, trust: ClientTrust) -> None:
        self._end("", self._doorkeeper.set_trust(trust))

    async def _serve(self, _requests: Any, context: Any) -> None:
        await self._released.wait()
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        call = _Call(context)
        begun, refused = self._enter(first, dict(context.invocation_metadata()))
        if begun is None:
            await call.write(end(refused))
            return
        self._calls[begun] = call
        try:
            await call.write(_GO_ON)
            while (message := await context.read()) is not grpc.aio.EOF:
                if message.HasField("response_trailers"):
                    await call.write(_TRAILERS_GO_ON)
        finally:
            self._calls.pop(begun, None)
            self._doorkeeper.leave(begun)

    def _enter(self, first: Any, metadata: dict[str, str]) -> tuple[Begun | None, str]:
        """The stream, or why there is none."""
        endpoint = endpoint_of(metadata)
        terms = self._doorkeeper.terms(endpoint)
        if terms is None:
            return None, NOT_ADMITTED
        try:
            begun = Begun(endpoint, shown_in(first, metadata, terms, self._peers.read))
            refused = self._doorkeeper.enter(begun, self._now(), is_judged=terms_of(metadata) == terms_id(terms))
        except (BadCertificate, ValueError) as error:
            log.warning("stream refused", extra={"endpoint": endpoint, "reason": str(error)})
            return None, NOT_ADMITTED
        except Exception:
            # Were the call to fail, Envoy would let the stream begin unwatched: that is for when nobody is here.
            log.exception("stream refused", extra={"endpoint": endpoint, "reason": "a fault of the gateway"})
            return None, NOT_ADMITTED
        if refused:
            return None, refused
        self._look_again()
        return begun, ""

    def _look_again(self) -> None:
        if self._looking is None and self._doorkeeper.has_mortals:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._looking = None
        self._end("", self._doorkeeper.overdue(self._now()))
        self._look_again()

    def _end(self, endpoint: str, streams: Iterable[Begun]) -> None:
        calls = [self._calls.pop(begun) for begun in streams]
        if not calls:
            return
        log.info("streams ended", extra={"endpoint": endpoint, "streams": len(calls)})
        task = asyncio.create_task(_tell(calls), name="end streams")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _tell(calls: list[_Call]) -> None:
    await asyncio.gather(*map(_tell_one, calls))


async def _tell_one(call: _Call) -> None:
    # Whoever has gone by himself cannot be told.
    with contextlib.suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
        await call.write(_GO)
