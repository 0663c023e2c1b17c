"""What real sockets say about whoever should listen at them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.lookout import ConnectionLookout
from router.domain.routing import Address, TcpAddress, UnixAddress
from router.ports import Presence


async def look(address: Address) -> Presence:
    return await ConnectionLookout().look(address)


@contextmanager
def listening(path: Path, backlog: int = 10) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield


async def test_a_socket_that_somebody_listens_at(tmp_path: Path) -> None:
    with listening(tmp_path / "s"):
        assert await look(UnixAddress(str(tmp_path / "s"))) is Presence.LISTENS


async def test_a_socket_that_a_killed_process_left_behind(tmp_path: Path) -> None:
    with listening(tmp_path / "s"):
        pass
    assert (tmp_path / "s").exists()
    assert await look(UnixAddress(str(tmp_path / "s"))) is Presence.GONE


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    assert await look(UnixAddress(str(tmp_path / "s"))) is Presence.GONE


async def test_a_queue_that_is_full_says_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listening(tmp_path / "s", backlog=0):
        found = [await look(UnixAddress(path)) for _ in range(9)]
    assert found[-1] is Presence.UNKNOWN
    assert Presence.GONE not in found


async def test_a_path_that_no_socket_can_have_says_nothing() -> None:
    assert await look(UnixAddress("/" + "x" * 200)) is Presence.UNKNOWN


async def test_a_port() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    ip, port = server.sockets[0].getsockname()
    async with server:
        assert await look(TcpAddress(ip, port)) is Presence.LISTENS
    assert await look(TcpAddress(ip, port)) is Presence.GONE


async def test_a_host_that_cannot_be_reached_says_nothing() -> None:
    assert await look(TcpAddress("224.0.0.1", 80)) is Presence.UNKNOWN
