"""Clients that mean harm, as a process of their own: `python -m benchmarks.attackers KIND PORT PATH`, until ended.

They come at a bounded rate, from loopback, over HTTP/1.1 or HTTP/2, to `PATH`:

- slow: a thousand connections that say nothing, or send headers or a body byte by byte, or take nothing of a reply
- connections: new ones, one after the other, half of which ask for something
- streams: that are opened and reset at once
- frames: pings, settings and window updates
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from benchmarks import http2

SLOW_CONNECTIONS = 1000
CONNECTIONS_A_SECOND = 500
STREAMS_A_SECOND = 2000
FRAMES_A_SECOND = 10_000
_TICK_S = 0.05


async def slow(port: int, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n".encode()
    kinds = (
        (b"", b""),
        (head, b"x-a: b\r\n"),
        (head + b"content-length: 100000\r\n\r\n", b"{"),
        (http2.opening() + http2.headers(1, http2.post(path)), http2.frame(http2.DATA, b"{", stream=1)),
        (http2.opening(window=0) + http2.headers(1, http2.post(path), ends=True), b""),
    )
    await asyncio.gather(
        *(_slow_client(port, *kinds[number % len(kinds)]) for number in range(SLOW_CONNECTIONS)),
    )


async def _slow_client(port: int, begins: bytes, goes_on: bytes) -> None:
    """It comes again when it is ended."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), contextlib.closing(await _connected(port)) as sock:
            await loop.sock_sendall(sock, begins)
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        if not await loop.sock_recv(sock, 4096):
                            break
                await loop.sock_sendall(sock, goes_on)
        await asyncio.sleep(1.0)


async def connections(port: int, path: str) -> None:
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()

    async def one(number: int) -> None:
        with contextlib.suppress(OSError), contextlib.closing(await _connected(port)) as sock:
            if number % 2:
                await loop.sock_sendall(sock, request)
                await loop.sock_recv(sock, 4096)

    async for due in _evenly(CONNECTIONS_A_SECOND):
        await asyncio.gather(*map(one, range(due)))


async def streams(port: int, path: str) -> None:
    fields = http2.post(path)

    def some(first: int, count: int) -> bytes:
        numbers = range(first, first + 2 * count, 2)
        return b"".join(http2.headers(number, fields) + http2.cancel(number) for number in numbers)

    await _flood(port, STREAMS_A_SECOND, some)


async def frames(port: int, _path: str) -> None:
    kinds = (
        http2.frame(http2.PING, bytes(8)),
        http2.frame(http2.SETTINGS),
        http2.frame(http2.WINDOW_UPDATE, struct.pack(">I", 1)),
    )
    await _flood(port, FRAMES_A_SECOND, lambda first, count: b"".join(kinds[n % 3] for n in range(count)))


async def _flood(port: int, a_second: int, some: Callable[[int, int], bytes]) -> None:
    """Over one connection, and another one when that is ended. `some(first, count)`: so many, from this stream on."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), contextlib.closing(await _connected(port)) as sock:
            await loop.sock_sendall(sock, http2.opening())
            reading = asyncio.create_task(_read_all(sock))
            first = 1
            async for due in _evenly(a_second):
                if reading.done():
                    break
                await loop.sock_sendall(sock, some(first, due))
                first += 2 * due
            reading.cancel()


async def _read_all(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(sock, 65_536):
            pass


async def _connected(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


async def _evenly(a_second: int) -> AsyncIterator[int]:
    """How many are due, again and again; what was missed is not made up for."""
    while True:
        begun_s = time.monotonic()
        yield max(1, round(a_second * _TICK_S))
        await asyncio.sleep(max(0.0, begun_s + _TICK_S - time.monotonic()))


ATTACKS: dict[str, Callable[[int, str], Coroutine[Any, Any, None]]] = {
    "slow": slow,
    "connections": connections,
    "streams": streams,
    "frames": frames,
}


def main() -> None:
    kind, port, path = sys.argv[1:]
    asyncio.run(ATTACKS[kind](int(port), path))


if __name__ == "__main__":
    main()
