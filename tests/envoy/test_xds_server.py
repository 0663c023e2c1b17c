"""The xDS server as a transport, without an Envoy: what would end a connection that nothing is wrong with."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import pytest

from tests.envoy.data_plane import gateway_in, short_folder, xds_server
from tests.envoy.waiting import DEADLINE_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Of the connection as a whole (RFC 9113 §4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Its kind, flags and payload."""
    head = await reader.readexactly(9)
    return head[3], head[4], await reader.readexactly(int.from_bytes(head[:3], "big"))


@pytest.mark.asyncio
async def test_an_envoy_may_ask_for_ever_whether_a_silent_connection_still_stands() -> None:
    async with contextlib.AsyncExitStack() as stack:
        folder = await stack.enter_async_context(short_folder())
        xds = xds_server(gateway_in(folder))
        await xds.start(str(folder / "xds"))
        stack.push_async_callback(xds.stop)
        await stack.enter_async_context(asyncio.timeout(DEADLINE_S))
        reader, writer = await asyncio.open_unix_connection(str(folder / "xds"))
        stack.callback(writer.close)
        writer.write(PREFACE + frame(SETTINGS))
        for number in range(20):
            writer.write(frame(PING, number.to_bytes(8, "big")))
            answer = await next_frame(reader)
            while answer[0] not in (PING, GOAWAY):
                answer = await next_frame(reader)
            assert answer == (PING, ACK, number.to_bytes(8, "big"))
