"""Sees whether a replica's process is there: by connecting to its listener, and hanging up."""

from __future__ import annotations

import asyncio
import errno
import socket

from router.domain.routing import Address, TcpAddress, TritonAddress, UnixAddress
from router.ports import Presence

_PATIENCE_S = 0.2


class ConnectionLookout:
    """Implements `Lookout`. A listener takes such a connection for a client that changed its mind."""

    async def look(self, address: Address) -> Presence:
        match address:
            case UnixAddress(path):
                return _look_at_socket(path)
            case TcpAddress(ip, port) | TritonAddress(ip, port, _):
                return await _look_at_port(ip, port)


def _look_at_socket(path: str) -> Presence:
    """The kernel knows at once: a socket that its process left behind refuses, a full queue says EAGAIN."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            code = probe.connect_ex(path)
        except OSError:  # the path is longer than any that could be listened at
            return Presence.UNKNOWN
    if code == 0:
        return Presence.LISTENS
    return Presence.GONE if code in (errno.ECONNREFUSED, errno.ENOENT) else Presence.UNKNOWN


async def _look_at_port(ip: str, port: int) -> Presence:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            _, writer = await asyncio.open_connection(ip, port)
    except ConnectionRefusedError:
        return Presence.GONE
    except OSError:  # out of time, or no way there
        return Presence.UNKNOWN
    writer.close()
    return Presence.LISTENS
