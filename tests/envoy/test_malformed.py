"""Malformed requests, tens of thousands, through the real Envoy to a real replica: each is refused, and nothing else.

What came of them is read in Envoy's access log, so that nothing depends on how an answer is read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import pytest_asyncio

from benchmarks import http2
from router.domain.routing import UnixAddress, Upstream
from tests.envoy.data_plane import DataPlane, data_plane
from tests.envoy.malformed import http1, http1_with_body, http2_bytes, http2_request
from tests.envoy.replica import MAX_BODY_BYTES
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEED = 20_260_101
CONNECTIONS = 16
PATIENCE_S = 0.25  # for an answer to what may not be a whole request
MOST_GROWTH_BYTES = 32 * 1024**2  # over 20,000 requests: 1.6 kB each would be seen

# What a caller's mistake is called in gRPC. RESOURCE_EXHAUSTED: a message that is too large; DEADLINE_EXCEEDED: it was
# given no time.
CALLERS_FAULT = {"OK", "InvalidArgument", "NotFound", "Unimplemented", "ResourceExhausted", "DeadlineExceeded"}


@dataclass(frozen=True, slots=True)
class Target:
    plane: DataPlane
    replica: psutil.Process
    envoy: psutil.Process

    @property
    def memory(self) -> dict[str, int]:
        return {"replica": self.replica.memory_info().rss, "envoy": self.envoy.memory_info().rss}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target() -> AsyncIterator[Target]:
    async with data_plane() as plane:
        path = plane.folder / "doubling"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.envoy.stream_replica", path, "doubling"
        )
        try:
            await eventually(path.exists)
            address = UnixAddress(str(path))
            await plane.endpoint("doubling", Upstream("blue", "1", (address,), 5000, 1000, MAX_BODY_BYTES))
            yield Target(plane, psutil.Process(process.pid), psutil.Process(plane.envoy.pid))
            assert process.returncode is None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _each_alone(port: int, requests: Iterable[bytes]) -> None:
    """Over a connection of its own, which is closed when nothing is answered for a while."""
    for raw in requests:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(TimeoutError, ConnectionError):
            writer.write(raw)
            async with asyncio.timeout(PATIENCE_S):
                await reader.read(65_536)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _one_after_the_other(port: int, requests: Iterable[bytes]) -> None:
    """Over one connection, each with its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for raw in requests:
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.partition(b": ")[::2] for line in head.split(b"\r\n")[1:])
        await reader.readexactly(int(fields[b"content-length"]))
    writer.close()
    await writer.wait_closed()


async def _at_once(port: int, make: Callable[[int], bytes], count: int) -> None:
    """HTTP/2 streams, fifty at a time; a connection that Envoy ends is followed by another one."""
    done = 0
    while done < count:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(http2.opening(window=2**20))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            stream = 1
            while done < count:
                wave = range(stream, stream + 100, 2)
                writer.write(b"".join(make(number) for number in wave))
                done, stream = done + len(wave), wave.stop
                await _all_ended(reader, set(wave))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _all_ended(reader: asyncio.StreamReader, streams: set[int]) -> None:
    while streams:
        head = await reader.readexactly(9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        is_last = kind in (http2.HEADERS, http2.DATA) and flags & http2.END_STREAM
        if is_last or kind == http2.RST_STREAM:
            streams.discard(stream)


async def _malformed(port: int, seed: int, scale: int) -> int:
    """Returns how many requests there were."""
    share = 100 * scale
    works: list[Awaitable[None]] = []
    for number in range(CONNECTIONS):
        chance = Random(f"{seed} {number}")
        works += [
            _each_alone(port, [http1(chance) for _ in range(share // 4)]),
            _each_alone(port, [http2_bytes(chance) for _ in range(share // 10)]),
            _one_after_the_other(port, [http1_with_body(chance) for _ in range(share)]),
            _at_once(port, lambda stream, chance=chance: http2_request(chance, stream), share),
        ]
    await asyncio.gather(*works)
    return CONNECTIONS * (share // 4 + share // 10 + 2 * share)


def _entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def _is_wrong(entry: dict[str, Any]) -> bool:
    """Whether anybody but the caller is blamed. Status 0: the caller has gone. (Of an answer that is no gRPC, Envoy
    makes up the status that a client would see.)"""
    status, grpc_status = entry["status"], entry["grpc_status"]
    return status >= 500 or (status == 200 and grpc_status is not None and grpc_status not in CALLERS_FAULT)


async def test_malformed_requests_are_refused_and_harm_nobody(target: Target) -> None:
    plane, port = target.plane, target.plane.gateway.http_port
    log = Path(plane.gateway.access_log)
    async with asyncio.timeout(5 * DEADLINE_S):
        count = await _malformed(port, SEED, scale=1)
        await eventually(lambda: plane.stat("http.scoring.downstream_rq_active"), 0)
        before = target.memory
        count += await _malformed(port, SEED + 1, scale=5)
        await eventually(lambda: plane.stat("http.scoring.downstream_rq_active"), 0)
    after = target.memory
    assert count >= 20_000

    valid = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    reply = await plane.http.post(
        "/v2/models/doubling/infer", content=json.dumps(valid), headers={"x-request-id": "the-last-one"}
    )
    assert reply.json()["outputs"][0]["data"] == [2.0, 4.0]
    await eventually(lambda: b"the-last-one" in log.read_bytes())

    entries = _entries(log)
    assert len(entries) > count // 2  # the others were no requests at all
    wrong = Counter(
        f"{entry['status']} {entry['grpc_status']} {entry['path']}" for entry in entries if _is_wrong(entry)
    )
    assert not wrong, wrong.most_common(10)
    for process, had in before.items():
        assert after[process] < had + MOST_GROWTH_BYTES, (process, before, after)
