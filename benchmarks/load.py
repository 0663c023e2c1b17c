"""The load generators: wrk for HTTP/1.1 with JSON, h2load for gRPC: C programs that outrun what they measure."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POST_SCRIPT = Path(__file__).with_name("post.lua")
PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}  # program -> Debian package
INFER_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class LoadFailed(Exception):
    """The generator did not run, or a request was not answered as it must be."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a generator saw. Latencies in microseconds."""

    requests: int
    duration_s: float
    p50_us: float
    p99_us: float

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_s


def missing_programs() -> list[str]:
    """The Debian packages to install before anything can be measured."""
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def http_load(url: str, bodies: Sequence[Path], headers: Mapping[str, str], connections: int, duration_s: int) -> Load:
    """Closed loop: every connection sends its next request, of the bodies in turn, when it has its reply.

    Raises `LoadFailed`.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout=10s", "-s", str(POST_SCRIPT), url, "--"]
    command += [*map(str, bodies), *(f"{name}: {value}" for name, value in headers.items())]
    summary = json.loads(_run(command, duration_s).splitlines()[-1])
    if summary["refused"] or summary["broken"] or not summary["requests"]:
        raise LoadFailed(f"{url}: {summary}")
    return Load(summary["requests"], summary["duration_us"] / 1e6, summary["p50_us"], summary["p99_us"])


def grpc_load(address: str, frame: Path, reply_bytes: int, connections: int, streams: int, duration_s: int) -> Load:
    """Closed loop with `streams` open calls per connection. `frame` holds one length-prefixed message.

    h2load does not read trailers, so a failed call shows as a missing body: `reply_bytes` is what each call must bring.
    Raises `LoadFailed`.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "requests.tsv")
        command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{duration_s}", f"--log-file={log}"]
        command += ["-d", str(frame), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        output = _run([*command, f"http://{address}{INFER_METHOD}"], duration_s)
        latencies_us = [int(line.rsplit("\t", 1)[1]) for line in log.read_text().splitlines()]
    succeeded, bad, data_bytes = h2load_counts(output)
    # Calls that the end of the run cuts short count as neither succeeded nor failed, but their bodies may count.
    if bad or not succeeded or data_bytes < succeeded * reply_bytes:
        raise LoadFailed(f"{address}: {succeeded} succeeded, {bad} did not, {data_bytes} bytes\n{output}")
    centiles = statistics.quantiles(latencies_us, n=100)
    return Load(succeeded, duration_s, centiles[49], centiles[98])


def h2load_counts(output: str) -> tuple[int, int, int]:
    """(succeeded, failed + errored + timed out, bytes of bodies)."""
    requests = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    traffic = re.search(r"traffic: .*\((\d+)\) data", output)
    if requests is None or traffic is None:
        raise LoadFailed(f"h2load said something new:\n{output}")
    succeeded, *bad = map(int, requests.groups())
    return succeeded, sum(bad), int(traffic.group(1))


def _run(command: list[str], duration_s: int) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration_s + 30, check=False)
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{command[0]} did not end in time") from None
    if done.returncode != 0:
        raise LoadFailed(f"{command[0]} ended with code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
