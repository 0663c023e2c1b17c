"""The process in which a model runs for the first time: `python -m adapters.onnx.trial`.

It reads a job from its standard input, gives up whatever it does not need, and writes what it finds to its standard
output. Whoever started it holds the clock (trial_process.py). It must start fast: no Ray, no HTTP, no control plane.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from adapters.onnx.graph_walk import walk
from adapters.onnx.trial_words import Entered, Line, line_of, read_job
from router.domain.errors import ModelUnavailable
from router.models.ports import AdmissionRefused
from router.models.trial import Check, GraphFacts, Loaded, Ran, TrialJob

if TYPE_CHECKING:
    from serving.ports import Backend

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation", "length_error")


def main() -> None:
    job = read_job(sys.stdin.buffer.read())
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is not ours
    give_up(job)
    try:
        for line in _findings(job):
            os.write(out, line_of(line))
    except AdmissionRefused as refused:
        os.write(out, line_of(refused))
    except MemoryError:
        os.write(out, line_of(_too_much_memory(job)))


def give_up(job: TrialJob) -> None:
    """Limits that hold from here on, for this process and whatever it might start."""
    limits, size = job.limits, job.model_bytes
    cpu_s = limits.cpu_for(size)
    for what, soft, hard in (
        (resource.RLIMIT_AS, limits.memory_for(size), limits.memory_for(size)),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),  # SIGXCPU, then SIGKILL
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_FSIZE, 0, 0),  # it may write to pipes and to no file
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # it goes first when memory runs out


def _findings(job: TrialJob) -> Iterator[Line]:
    """Raises `AdmissionRefused` or `MemoryError`."""
    facts: dict[str, GraphFacts] = {}
    for path in job.graphs:
        yield Entered(Check.GRAPH, path)
        facts[path] = _walked(job, path)
        yield facts[path]
    yield Entered(Check.RUNTIME, job.model)
    # Only now: what was refused by its looks needs no runtime.
    from adapters.onnx.backend import OnnxBackend
    from adapters.onnx.options import OnnxOptions
    from adapters.onnx.runtime_limits import check_versions, runtime_name

    for path in job.graphs:
        check_versions(facts[path])
    started = perf_counter()
    try:
        backend: Backend = OnnxBackend(OnnxOptions(str(Path(job.folder, job.model)), job.sha256))
    except ModelUnavailable as error:
        raise _failed(job, Check.RUNTIME, str(error), "export it again, for a runtime like this one") from None
    yield Loaded(backend.signature, runtime_name(), perf_counter() - started)
    yield from _runs(job, backend)


def _walked(job: TrialJob, path: str) -> GraphFacts:
    if not job.sizes[path]:
        raise AdmissionRefused(Check.GRAPH, f"{path!r} is empty", "export it again")
    with Path(job.folder, path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return walk(content, path, job.sizes)


def _runs(job: TrialJob, backend: Backend) -> Iterator[Line]:
    from adapters.onnx.golden import GoldenRequest
    from serving.warmup import first_that_runs

    for path in job.golden:
        golden = GoldenRequest(path)
        yield Entered(Check.GOLDEN, golden.name)
        golden.check(backend)
    yield Entered(Check.WARM_UP)
    try:
        sample = first_that_runs(backend)
        started = perf_counter()
        backend.run(sample.rows(1), [spec.name for spec in backend.signature.outputs])
        run_s = perf_counter() - started
    except Exception as error:
        raise _failed(job, Check.WARM_UP, str(error), "try it where it was trained") from None
    yield Ran(len(job.golden), run_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _failed(job: TrialJob, check: Check, words: str, to_do: str) -> AdmissionRefused:
    if any(sign in words for sign in _OUT_OF_MEMORY):
        return _too_much_memory(job, words)
    return AdmissionRefused(check, words, to_do)


def _too_much_memory(job: TrialJob, words: str = "") -> AdmissionRefused:
    allowed = job.limits.memory_for(job.model_bytes) / 1024**3
    return AdmissionRefused(
        Check.MEMORY,
        f"the model wants more than the {allowed:.1f} GiB that it may have{f': {words}' if words else ''}",
        "serve a smaller model",
    )


if __name__ == "__main__":
    main()
