"""TLS before a program that has none, or takes new certificates only when it starts: every connection's bytes go to a
port on this host's loopback and back. Knows nothing of what travels inside.

A reader that is slower than its writer stops it: no more than a connection's buffers is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import cast

_HANDSHAKE_TIMEOUT_S = 10.0
_LOOPBACK = "127.0.0.1"


class TlsRelay:
    """Belongs to one event loop."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._ends: set[_End] = set()

    async def open(self, ip: str, tls: ssl.SSLContext) -> int:
        """Listen on a free port of the address, which is returned. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _End(self), ip, 0, backlog=1024, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Connections that are open are cut."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connecting):
            task.cancel()
        for end in tuple(self._ends):
            end.abort()

    def connected(self, end: _End) -> None:
        self._ends.add(end)
        if end.other is None:  # a client's, not ours
            task = asyncio.create_task(self._connect(end), name="relay")
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def lost(self, end: _End) -> None:
        self._ends.discard(end)

    async def _connect(self, front: _End) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _End(self, front), _LOOPBACK, self._target_port)
        except OSError:
            front.abort()


class _End(asyncio.Protocol):
    """One of the two connections that are joined. `other` None: there is none yet, and nothing is read."""

    def __init__(self, relay: TlsRelay, other: _End | None = None) -> None:
        self._relay = relay
        self._transport: asyncio.Transport | None = None
        self.other = other

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by inheritance
        self._relay.connected(self)
        if self.other is None:
            self._transport.pause_reading()
        elif self.other._transport is None:  # it went while we connected
            self._transport.abort()
        else:
            self.other.other = self
            self.other.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            with contextlib.suppress(RuntimeError):  # it is closing, or paused
                self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._relay.lost(self)
        if self.other is not None and self.other._transport is not None:
            self.other._transport.close()  # with what was written

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
