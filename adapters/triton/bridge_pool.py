"""The Tritons of a bridge: which of them answer, asked once a second, and which of those is asked next.

Only what they say here decides; a call that fails makes them be asked at once. So one answer in error, of a model that
says UNAVAILABLE, takes no server away, and one that hangs is left although it keeps its connections.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from threading import Event, Lock, Thread
from typing import Any

import grpc

from adapters.triton.bridge_server import ASK_TIMEOUT_S, Server
from adapters.triton.bridge_signature import ServedModel
from router.domain.errors import ModelUnavailable

log = logging.getLogger(__name__)

ASK_EVERY_S = 1.0
# One that is late once may merely be busy; the second time in a row it hangs.
_PATIENCE = 2


class Pool:
    """Thread-safe, but for `look` and `start`: these are called by one thread at a time, the latter once."""

    def __init__(self, servers: Sequence[Server], restarted: Callable[[Server], None]) -> None:
        """`restarted` is told of a server that was away and has forgotten what it knew."""
        self._servers = tuple(servers)
        self._restarted = restarted
        self._lock = Lock()
        self._turn = 0
        self._is_wanted = Event()
        self._closing = Event()
        self._thread = Thread(target=self._watch, name="tritons", daemon=True)
        self.model: ServedModel | None = None

    @property
    def servers(self) -> tuple[Server, ...]:
        return self._servers

    @property
    def trouble(self) -> str:
        """Why none can be asked; empty when one can."""
        reasons = []
        for server in self._servers:
            trouble = server.trouble
            if not trouble:
                return ""
            reasons.append(f"{server}: {trouble}")
        return "; ".join(reasons)

    def take(self, tried: Collection[Server]) -> Server | None:
        """The one with the fewest calls under way, of those that answer; `give_back` follows."""
        with self._lock:
            self._turn += 1
            count = len(self._servers)
            best: Server | None = None
            for at in range(count):
                server = self._servers[(self._turn + at) % count]
                if not server.trouble and server not in tried and (best is None or server.in_flight < best.in_flight):
                    best = server
            if best is not None:
                best.in_flight += 1
            return best

    def give_back(self, server: Server) -> None:
        with self._lock:
            server.in_flight -= 1

    def has_another(self, tried: Collection[Server], server: Server) -> bool:
        return any(not one.trouble and one is not server and one not in tried for one in self._servers)

    def look_now(self) -> None:
        """A call failed."""
        self._is_wanted.set()

    def start(self) -> None:
        """Go on looking until `close`."""
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._is_wanted.set()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self) -> None:
        """Ask all of them, beside each other.

        Raises `ModelUnavailable` when no bridge can stand before what the first that answers serves.
        """
        obstacles = [server.renew() for server in self._servers]
        answers = [
            None if obstacle else server.ask_ready() for server, obstacle in zip(self._servers, obstacles, strict=True)
        ]
        for server, obstacle, answer in zip(self._servers, obstacles, answers, strict=True):
            trouble = obstacle or self._trouble(server, answer)
            if trouble != server.trouble:
                log.log(
                    logging.WARNING if trouble else logging.INFO,
                    "a Triton changed",
                    extra={"triton": str(server), "from": server.trouble, "to": trouble or "ready"},
                )
                server.trouble = trouble

    def _trouble(self, server: Server, answer: Any) -> str:
        try:
            is_ready = answer.result().ready
            server.late = 0
            if not is_ready:
                return "the model is not ready"
            return self._welcomed(server) if server.trouble else ""
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                server.late += 1
                if server.late < _PATIENCE and not server.trouble:
                    return ""
                return f"no answer within {ASK_TIMEOUT_S:.0f} s"
            return server.why_not(error)

    def _welcomed(self, server: Server) -> str:
        """One that was away: it must still serve the same."""
        if self.model is None:
            self.model = server.model()
        else:
            try:
                model = server.model()
            except ModelUnavailable as error:
                return str(error)
            if model.signature != self.model.signature:
                return "the model has other inputs or outputs than when this replica started: restart the deployment"
        if server.was_started_again():
            server.forget_regions()
            self._restarted(server)
        return ""

    def _watch(self) -> None:
        while not self._closing.is_set():
            self._is_wanted.wait(ASK_EVERY_S)
            self._is_wanted.clear()
            if self._closing.is_set():
                return
            try:
                self.look()
            except Exception:  # whatever it is, the next look may find better
                log.exception("the Tritons could not be asked")
