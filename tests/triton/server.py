"""A real Triton as a child of the test."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.environments import TRITON, ensure
from benchmarks.triton_server import TritonPorts, region_prefix, triton_command, triton_environment
from router.domain.routing import TritonAddress
from tests.envoy.data_plane import free_ports
from tests.envoy.waiting import DEADLINE_S


@dataclass(slots=True)
class Triton:
    """Serves a repository until it is killed, and may be started again on the same ports."""

    repository: Path
    ports: TritonPorts
    log: Path
    options: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)  # of what it is asked here
    _process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> TritonAddress:
        return TritonAddress("127.0.0.1", self.ports.http, self.ports.grpc)

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> Triton:
        """Returns when its models are ready."""
        command = triton_command(TRITON.packages, self.repository, self.ports, *self.options)
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=triton_environment(TRITON.packages, TRITON.python), stdout=output, stderr=output
            )
        async with asyncio.timeout(2 * DEADLINE_S), httpx.AsyncClient(headers=self.headers) as client:
            while True:
                assert self.is_alive, self.log.read_text()
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.http_url}/v2/health/ready")).status_code == 200:
                        return self
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """With the processes of its Python models, which may outlive it for ever, and their shared memory."""
        if self._process is not None and self._process.returncode is None:
            models = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            await self._process.wait()
            for model in models:
                with contextlib.suppress(psutil.NoSuchProcess):
                    model.kill()
            self._remove_memory()

    def _remove_memory(self) -> None:
        for path in Path("/dev/shm").glob(f"{region_prefix(self.ports)}*"):
            path.unlink(missing_ok=True)

    def pause(self) -> None:
        """Returns when all of it stands still: on a busy machine, some threads go on for a while."""
        self._signal(signal.SIGSTOP)
        give_up_s = time.monotonic() + DEADLINE_S
        while not self._stands_still():
            assert time.monotonic() < give_up_s
            time.sleep(0.005)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _stands_still(self) -> bool:
        assert self._process is not None
        threads = Path("/proc", str(self._process.pid), "task").glob("*/stat")
        try:
            return {stat.read_text().rpartition(")")[2].split()[0] for stat in threads} == {"T"}
        except (FileNotFoundError, ProcessLookupError):  # one has just ended
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def triton(repository: Path, *options: str) -> Triton:
    http, grpc = free_ports(2)
    ensure(TRITON)
    return Triton(repository, TritonPorts(http, grpc), repository.parent / f"triton-{http}.log", options)


@asynccontextmanager
async def started_triton(
    repository: Path, *options: str, headers: dict[str, str] | None = None
) -> AsyncIterator[Triton]:
    one = triton(repository, *options)
    one.headers.update(headers or {})
    try:
        yield await one.start()
    finally:
        await one.kill()
