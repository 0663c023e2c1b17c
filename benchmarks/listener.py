"""What one small HTTP exchange costs in CPU: our listener beside raw ASGI on uvicorn, in turns.

Same parser (httptools), same loop (uvloop), same trivial handler: `python -m benchmarks.listener`.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing as mp
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from benchmarks.load import LoadFailed, http_load, missing_programs
from benchmarks.processes import free_port
from serving.exchange import HttpRequest, HttpResponse, Reply
from serving.listener import Listener

ROUNDS, SECONDS, CONNECTIONS = 3, 3, 32
BODY = b'{"inputs": [' + b"0.125, " * 60 + b"0]}"
REPLY = b'{"outputs": []}'

Serve = Callable[[int, Any], None]


def ours(port: int, stop: Any) -> None:
    def answer(request: HttpRequest, reply: Reply) -> None:
        reply(HttpResponse(200, [(b"content-type", b"application/json")], [REPLY]))

    async def serve() -> None:
        listener = Listener(answer, b"", 1 << 20)
        await listener.open_tcp("127.0.0.1", port)
        await asyncio.to_thread(stop.wait)
        await listener.close(grace_s=0.1)

    uvloop.run(serve())


def asgi_on_uvicorn(port: int, stop: Any) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REPLY))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": REPLY})

    config = uvicorn.Config(
        app, port=port, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error"
    )

    async def serve() -> None:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await serving

    uvloop.run(serve())


@contextlib.contextmanager
def running(serve: Serve) -> Any:
    """A server in a process of its own: (url, process id)."""
    context = mp.get_context("spawn")
    stop, port = context.Event(), free_port()
    process = context.Process(target=serve, args=(port, stop))
    process.start()
    try:
        give_up_s = time.monotonic() + 20
        while time.monotonic() < give_up_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v2/models/m/infer", process.pid
    finally:
        stop.set()
        process.join(5)
        process.kill()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # USER_HZ


def main() -> int:
    if missing := missing_programs():
        print(f"install first: sudo apt-get install {' '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, running(ours) as one, running(asgi_on_uvicorn) as other:
        body = Path(folder, "body")
        body.write_bytes(BODY)
        per_request: dict[str, list[float]] = {"crossfade": [], "uvicorn": []}
        for number in range(ROUNDS):
            for name, (url, pid) in (("crossfade", one), ("uvicorn", other)):
                before = cpu_s(pid)
                load = http_load(url, [body], {}, CONNECTIONS, SECONDS)
                per_request[name].append((cpu_s(pid) - before) / load.requests * 1e6)
                print(f"round {number + 1}: {name} {per_request[name][-1]:.1f} µs a request", file=sys.stderr)
    ours_us, theirs_us = (statistics.median(values) for values in per_request.values())
    print(
        f"CPU a request: crossfade {ours_us:.1f} µs, raw ASGI on uvicorn {theirs_us:.1f} µs, {theirs_us / ours_us:.1f}x"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LoadFailed as error:
        sys.exit(str(error))
