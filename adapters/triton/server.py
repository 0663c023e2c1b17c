"""Triton's process and the way to talk to it: implements `serving.triton_ports`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from adapters.triton.first_answer import FirstAnswer, said
from adapters.triton.leftovers import memory_name, remove_memory
from adapters.triton.program import backend_folder
from adapters.triton.repository import Repository
from router.domain.errors import ModelUnavailable
from router.domain.routing import TritonAddress
from serving.load import WorkDone
from serving.triton_ports import Ending

log = logging.getLogger(__name__)

_LEASH = str(Path(__file__).with_name("leash.py"))
_PROBE_TIMEOUT_S = 3.0
_POLL_S = 0.05
# What a Triton can be told to load, to map, or to write to a file is nobody's business. Its only way to close these is
# to ask for a secret, and whoever is on this machine can read secrets on a command line. So they ask for what no
# request can contain: a line break, in a value over HTTP/1.1, in a name over gRPC.
_CLOSED = "model-repository,shared-memory,trace,logging"
_LAST_WORDS = 5
_PORT_TAKEN = "already in use"
_WORDS = re.compile(r'^[A-Z][0-9]{4} [0-9:.]+ \d+ [\w.]+:\d+\] "?(?P<text>.*?)"?$')
# Said without a GPU; and when it is killed.
_NOISE = (
    "CudaDriverHelper has not been initialized",
    "CUDA driver version is insufficient",
    "no pinned memory pool, falling back",
    "Non-graceful termination detected",
)
# CROSSFADE_RUN is how a run of the gateway knows its processes.
_KEPT = frozenset(("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "LD_PRELOAD", "CROSSFADE_RUN"))
_KEPT_PREFIXES = ("LD_LIBRARY_", "CUDA_", "NVIDIA_", "NV_", "TRITON_", "TCMALLOC_", "DCGM_", "OMP_", "ORT_", "PYTHON")


@dataclass(frozen=True, slots=True)
class TritonPorts:
    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True)
class TritonSettings:
    """`ip`: where it listens. `instances`: of each model, in all. `has_gpu`: it may use what devices Ray left us."""

    program: Path
    repository: Repository
    ip: str
    instances: int
    has_gpu: bool


class TritonHomeOnDisk:
    """Implements `TritonHome`: one Triton at a time over one repository."""

    def __init__(self, settings: TritonSettings) -> None:
        self._settings = settings
        self._first = FirstAnswer() if settings.repository.is_asked_first else None
        self._latest: TritonProcess | None = None

    async def start(self) -> TritonProcess:
        settings = self._settings
        name = memory_name(settings.repository.folder) + secrets.token_hex(8)
        try:
            ports = _free_ports(settings.ip)
            command = triton_command(settings, ports, name)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _LEASH, str(os.getpid()), *command),
                env=environment(os.environ, settings.has_gpu),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise ModelUnavailable(f"tritonserver cannot be started: {error.strerror}") from error
        self._latest = TritonProcess(settings, ports, name, process, self._first)
        return self._latest

    async def close(self) -> None:
        if self._latest is not None:
            await self._latest.end()
        await asyncio.to_thread(self._settings.repository.remove)


def triton_command(settings: TritonSettings, ports: TritonPorts, name: str) -> list[str]:
    """`name`: what it answers when asked for its name, by which nobody takes another one for it."""
    secret = secrets.token_hex(16)
    return [
        str(settings.program),
        f"--id={name}",
        f"--model-repository={settings.repository.folder}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in settings.repository.names),
        f"--backend-directory={backend_folder(settings.program)}",
        f"--http-address={settings.ip}",
        f"--http-port={ports.http}",
        f"--grpc-address={settings.ip}",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        f"--allow-gpu-metrics={str(settings.has_gpu).lower()}",
        "--allow-cpu-metrics=false",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        f"--http-restricted-api={_CLOSED}:closed={secret}\n",
        f"--grpc-restricted-protocol={_CLOSED}:closed\n={secret}",
        f"--backend-config=python,shm-region-prefix-name={name}-",
        "--log-info=false",
        "--log-format=default",
        *(() if settings.has_gpu else ("--pinned-memory-pool-byte-size=0",)),
    ]


class TritonProcess:
    """Implements `RunningTriton`. Belongs to one event loop."""

    def __init__(
        self,
        settings: TritonSettings,
        ports: TritonPorts,
        name: str,
        process: asyncio.subprocess.Process,
        first: FirstAnswer | None = None,
    ) -> None:
        """`first`: what the model must have answered before it is taken for loaded."""
        self.address = TritonAddress(settings.ip, ports.http, ports.grpc)
        self._settings = settings
        self._ports = ports
        self.name = name
        self._process = process
        self._models = settings.repository.names
        self._first = first
        # Never through a proxy from the environment.
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=False),  # plain HTTP: nothing to verify
            timeout=_PROBE_TIMEOUT_S,
            headers={"user-agent": "crossfade"},
        )
        self._is_killed = False
        self._last: deque[str] = deque(maxlen=_LAST_WORDS)
        self._reading = asyncio.create_task(self._read(), name="Triton's log")

    @property
    def pid(self) -> int:
        return self._process.pid

    async def loaded(self) -> None:
        """Triton opens its ports when it has loaded its models."""
        while not await self._is_loaded():  # noqa: ASYNC110 (it can only be asked)
            await asyncio.sleep(_POLL_S)

    async def why_not_ready(self) -> str:
        """Also for a part: an ensemble takes itself for ready without."""
        for model in self._models:
            try:
                answer = await self._client.get(f"{self._url}/models/{model}/ready")
            except httpx.TimeoutException:
                raise TimeoutError from None
            except httpx.HTTPError as error:
                return f"no answer ({error or type(error).__name__})"
            if answer.status_code != 200:
                what = "the model" if model == self._models[0] else f"its part {model!r}"
                return f"Triton says of {what}: {said(answer)}"
        return ""

    async def work_done(self) -> WorkDone:
        try:
            statistics = [
                (await self._client.get(f"{self._url}/models/{model}/stats")).json()["model_stats"]
                for model in self._models
            ]
            metrics = (await self._client.get(f"http://127.0.0.1:{self._ports.metrics}/metrics")).text
        except httpx.TimeoutException:
            raise TimeoutError from None
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise ModelUnavailable(f"Triton's statistics cannot be read: {error}") from None
        return work_done(statistics, metrics, self._settings.instances)

    async def ended(self) -> Ending:
        code = await self._process.wait()
        await asyncio.wait({self._reading}, timeout=1.0)  # what it started may hold the pipe a little longer
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        words = "; ".join(self._last)
        return Ending(f"tritonserver ended ({how})" + (f": {words}" if words else ""), _PORT_TAKEN in words)

    async def drain(self) -> None:
        """On SIGTERM Triton takes no new connections, answers what it has, and ends when connections have: ours are
        closed first, and Envoy closes its own. (2.51 ends in 2 s with nothing under way, else only after its exit
        timeout of 30 s: whoever waits knows how long a request may take.)"""
        await self._client.aclose()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    async def end(self) -> None:
        """By force: it hangs, or was drained, or has used up its time. Whoever was cancelled here may call it again."""
        if not self._is_killed:
            self._is_killed = True  # once: the number of a group that is gone may be somebody else's
            try:
                os.killpg(self._process.pid, signal.SIGKILL)  # with what it started
            except ProcessLookupError:  # it is no group yet, or gone
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()  # never second: it first asks how the process ended, and asyncio then cannot
        await self._process.wait()
        self._reading.cancel()
        await self._client.aclose()
        await asyncio.to_thread(remove_memory, f"{self.name}-")

    @property
    def _url(self) -> str:
        return f"http://{self._settings.ip}:{self._ports.http}/v2"

    async def _said_name(self) -> str:
        """Empty while nobody answers there."""
        try:
            return str((await self._client.get(self._url)).json()["name"])
        except (httpx.HTTPError, ValueError, KeyError):
            return ""

    async def _is_loaded(self) -> bool:
        """Raises `ModelUnavailable` when the model that answers does not."""
        if await self._said_name() != self.name or await self._is_unready():
            return False
        if self._first is None:
            return True
        try:
            await self._first.ask(self._client, f"{self._url}/models/{self._models[0]}")
        except httpx.HTTPError:  # it is gone
            return False
        return True

    async def _is_unready(self) -> bool:
        try:
            return bool(await self.why_not_ready())
        except TimeoutError:
            return True

    async def _read(self) -> None:
        """Its log goes into ours; it logs no requests."""
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # longer than any line of a log should be
                continue
            if not line:
                return
            text = line.decode(errors="replace").strip()
            if text and not any(noise in text for noise in _NOISE):
                words = _WORDS.match(text)
                self._last.append((words["text"] if words else text)[:300])
                log.warning("tritonserver: %s", text)


def work_done(statistics: Sequence[Any], metrics: str, instances: int) -> WorkDone:
    """Out of what Triton says in its statistics of the model that answers, then of its parts, and in its Prometheus
    metrics of all of them.

    An instance is busy while a batch is in it, so the time of batches is shared by the instances; times of requests
    would count a batch once for each of them. Parts have instances of their own, and every request goes through all of
    them: the one that has been busiest so far is the one that is full first.
    """
    busy_ns = max(map(_busy_ns, statistics))
    counts = [version["inference_stats"][kind]["count"] for version in statistics[0] for kind in ("success", "fail")]
    waiting = re.findall(r"^nv_inference_pending_request_count\{[^}]*\} (\d+)", metrics, re.MULTILINE)
    return WorkDone(busy_ns / 1e9 / instances, sum(map(int, counts)), sum(map(int, waiting)))


def _busy_ns(versions: Any) -> int:
    batches = [batch for version in versions for batch in version.get("batch_stats", ())]
    return sum(
        int(batch[part]["ns"]) for batch in batches for part in ("compute_input", "compute_infer", "compute_output")
    )


def environment(ours: Mapping[str, str], has_gpu: bool) -> dict[str, str]:
    """What of our environment Triton gets: with the devices that Ray assigned, and no secret that is none of its."""
    kept = {name: value for name, value in ours.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return kept if has_gpu else kept | {"CUDA_VISIBLE_DEVICES": ""}


def _free_ports(ip: str) -> TritonPorts:
    """Free a moment ago; whoever finds one taken after all is started again with others."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one, where in zip(sockets, (ip, ip, "127.0.0.1"), strict=True):
            one.bind((where, 0))
        return TritonPorts(*(one.getsockname()[1] for one in sockets))
