"""The admin API's two doors: the port, and a socket in the run directory that only this user may open.

The socket is there whatever the port asks of clients: `crossfade up` itself comes in by it, and so does the command
line on the same machine.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from router.config import GatewayConfig

_BACKLOG = 128


class AdminServer:
    """Belongs to one event loop. `tls` None: the port speaks plain text."""

    def __init__(self, app: ASGIApp, config: GatewayConfig, tls: ssl.SSLContext | None) -> None:
        self._socket_path = config.admin_socket
        self._port = _Server(_settings(app, config.admin.bind, config.ports.admin, tls))
        self._socket = _Server(_settings(app))

    async def serve(self) -> None:
        """Until `stop`, or until the port cannot be had: then it returns, and uvicorn has logged why."""
        listener = _private_socket(self._socket_path)
        doors = {asyncio.create_task(self._port.serve()), asyncio.create_task(self._socket.serve([listener]))}
        try:
            await asyncio.wait(doors, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop()
            await asyncio.gather(*doors)

    def stop(self) -> None:
        self._port.should_exit = self._socket.should_exit = True


class _Server(uvicorn.Server):
    """Signals are the process's own business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _settings(app: ASGIApp, host: str = "", port: int = 0, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        # Who asks is who has connected. Else, whoever asks from this machine chooses the address that the audit log
        # shows, and that failed attempts count for.
        proxy_headers=False,
        server_header=False,
        ws="none",
    )


def _private_socket(path: Path) -> socket.socket:
    """What an earlier process has left there is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    return listener
