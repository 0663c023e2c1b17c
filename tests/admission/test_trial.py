"""The trial's process: what it may not do, how it ends, and what is made of its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import numpy_helper

from adapters.onnx.trial_process import TrialProcess, ended
from adapters.onnx.trial_words import Entered, Garbled, job_line, line_of, read_job, read_line
from router.models.admission import AdmissionRules
from router.models.ports import AdmissionRefused
from router.models.trial import Check, Finding, GraphFacts, Loaded, Ran, TrialJob, TrialLimits
from serving.signature import Signature, TensorSpec
from tests.admission import graphs
from tests.admission.folders import QUICK, admitted, written

GIB = 1024**3


def job_of(folder: Path, files: dict[str, bytes], limits: TrialLimits = QUICK) -> TrialJob:
    tree = written(folder, files).tree
    sizes = {file.path: file.size for file in tree.files}
    digest = next(file.sha256 for file in tree.files if file.path == "model.onnx")
    return TrialJob(str(folder), ("model.onnx",), "model.onnx", digest, sizes, limits=limits)


async def everything(job: TrialJob) -> list[Finding]:
    async with TrialProcess().begin(job) as findings:
        return [finding async for finding in findings]


def started_trial() -> psutil.Process:
    """The process that this one has started for it."""
    (child,) = [child for child in psutil.Process().children() if "adapters.onnx.trial" in child.cmdline()]
    return child


async def entered(findings: AsyncIterator[Finding]) -> None:
    """Read until the model has loaded."""
    async for finding in findings:
        if isinstance(finding, Loaded):
            return


async def test_a_good_model_is_looked_through_loaded_and_run(tmp_path: Path) -> None:
    graph, loaded, ran = await everything(job_of(tmp_path / "m", {"model.onnx": graphs.relu()}))
    assert isinstance(graph, GraphFacts)
    assert isinstance(loaded, Loaded)
    assert isinstance(ran, Ran)
    assert loaded.runtime.startswith("ONNX Runtime 1.")
    assert loaded.signature == Signature(
        (TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), is_batchable=True
    )
    assert 10_000_000 < ran.peak_bytes < 4 * GIB


async def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    weights = np.array([2, 3], np.float32).tobytes()
    content = graphs.scaled(graphs.external(location="weights.bin", offset="4", length="8"))
    *_, ran = await everything(job_of(tmp_path / "m", {"model.onnx": content, "weights.bin": b"...." + weights}))
    assert isinstance(ran, Ran)


async def test_the_process_has_limits_and_no_secrets_and_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    job = job_of(tmp_path / "m", {"model.onnx": graphs.loop(2**62)}, TrialLimits(cpu_s=50))
    async with TrialProcess().begin(job) as findings:
        await entered(findings)
        process = started_trial()
        plain = {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY"}
        assert process.environ().keys() <= plain
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
        assert process.cwd() == "/"
        limits = {
            kind: process.rlimit(kind)
            for kind in (
                psutil.RLIMIT_AS,
                psutil.RLIMIT_CPU,
                psutil.RLIMIT_FSIZE,
                psutil.RLIMIT_CORE,
                psutil.RLIMIT_NOFILE,
            )
        }
        assert limits[psutil.RLIMIT_AS][1] <= job.limits.memory_for(job.model_bytes)
        assert limits[psutil.RLIMIT_CPU] == (50, 51)
        assert limits[psutil.RLIMIT_FSIZE] == limits[psutil.RLIMIT_CORE] == (0, 0)
        assert limits[psutil.RLIMIT_NOFILE] == (64, 64)
    assert not process.is_running()


async def test_a_trial_that_takes_too_long_is_ended_by_the_clock_of_whoever_started_it(tmp_path: Path) -> None:
    job = job_of(tmp_path / "m", {"model.onnx": graphs.relu()}, TrialLimits(wall_s=0))
    with pytest.raises(AdmissionRefused, match=r"time: the model was still being looked through after 0 s"):
        await everything(job)


async def test_a_trial_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    job = job_of(tmp_path / "m", {"model.onnx": graphs.loop(2**62)}, TrialLimits(cpu_s=50))
    trial = TrialProcess().begin(job)
    findings = await trial.__aenter__()
    await entered(findings)
    process = started_trial()
    waiting = asyncio.ensure_future(anext(findings))
    await asyncio.sleep(0)
    waiting.cancel()
    await trial.__aexit__(None, None, None)
    assert not process.is_running()


async def test_a_process_that_is_killed_from_outside_ends_the_trial(tmp_path: Path) -> None:
    job = job_of(tmp_path / "m", {"model.onnx": graphs.loop(2**62)}, TrialLimits(cpu_s=50))
    async with TrialProcess().begin(job) as findings:
        await entered(findings)
        started_trial().kill()
        with pytest.raises(AdmissionRefused, match="memory: the machine ran out of memory while the model was"):
            await anext(findings)


def test_a_large_model_gets_more_memory_and_time() -> None:
    limits = TrialLimits(wall_s=60, cpu_s=120, memory_bytes=4 * GIB, memory_per_model_byte=3, load_bytes_per_s=50e6)
    assert (limits.memory_for(0), limits.wall_for(0), limits.cpu_for(0)) == (4 * GIB, 60, 120)
    assert (limits.memory_for(GIB), limits.wall_for(5 * 10**9), limits.cpu_for(5 * 10**9)) == (7 * GIB, 160, 220)


def test_the_process_starts_without_ray_and_looks_before_it_loads_a_runtime() -> None:
    at_first = "adapters.onnx.trial"
    later = "adapters.onnx.backend, adapters.onnx.golden, adapters.onnx.runtime_limits, serving.warmup"
    for modules, forbidden in (
        (at_first, {"ray", "numpy", "onnxruntime", "fastapi", "httpx", "uvicorn"}),
        (f"{at_first}, {later}", {"ray", "fastapi", "httpx", "uvicorn"}),
    ):
        program = f"import sys, {modules}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert not forbidden & set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-signal.SIGXCPU, "time: the model used 120 s of processor time while answering its first request; serve a"),
        (-signal.SIGKILL, "memory: the machine ran out of memory while the model was answering its first request"),
        (-signal.SIGSEGV, "warm-up: the model crashed its process (SIGSEGV) while answering its first request; do not"),
        (-signal.SIGABRT, "warm-up: the model crashed its process (SIGABRT) while answering"),
        (1, "warm-up: the trial's process ended with code 1 while answering its first request: No such thing; see"),
    ],
)
def test_the_end_of_the_process_is_told_in_words(code: int, words: str) -> None:
    job = TrialJob("/", ("m.onnx",), "m.onnx", "", {"m.onnx": 1})
    assert str(ended(job, Entered(Check.WARM_UP), code, "No such thing")).startswith(words)


JOB = TrialJob("/m", ("a.onnx", "b.onnx"), "a.onnx", "0" * 64, {"a.onnx": 5, "w": 2**40}, ("g.json",), QUICK)
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "BYTES", ()),), is_batchable=False)
FINDINGS = [
    GraphFacts("a.onnx", 10, (("", 21), ("ai.onnx.ml", 3)), 5, 1, 0, ("w",)),
    Loaded(SIGNATURE, "ONNX Runtime 1.30", 0.5),
    Ran(1, 0.25, 2**40),
    Entered(Check.GOLDEN, "g.json"),
]


def test_a_job_and_every_finding_come_through_the_pipe_unchanged() -> None:
    assert read_job(job_line(JOB)) == JOB
    for finding in FINDINGS:
        assert read_line(line_of(finding)) == finding
    refused = read_line(line_of(AdmissionRefused(Check.GRAPH, "found", "to do")))
    assert isinstance(refused, AdmissionRefused)
    assert (refused.check, refused.found, refused.to_do) == ("graph", "found", "to do")


def test_what_a_model_says_cannot_command_a_terminal() -> None:
    refused = read_line(line_of(AdmissionRefused(Check.RUNTIME, "no \x1b[31mX\u202e\n", "to do")))
    assert isinstance(refused, AdmissionRefused)
    assert refused.found == "no ?[31mX??"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"[]",
        b"{}",
        b'{"a": 1, "b": 2}',
        b'{"run": {}}',
        b'{"ran": {}}',
        b'{"ran": {"golden": -1, "run_s": 1, "peak_bytes": 1}}',
        b'{"ran": {"golden": true, "run_s": 1, "peak_bytes": 1}}',
        b'{"ran": {"golden": 1, "run_s": NaN, "peak_bytes": 1}}',
        b'{"ran": {"golden": 1, "run_s": "1", "peak_bytes": 1}}',
        b'{"refused": ["nonsense", "a", "b"]}',
        b'{"refused": ["graph", "a"]}',
        b'{"entered": ["graph", 5]}',
        json.dumps({"entered": ["graph", "x" * 10_000]}).encode(),
        line_of(FINDINGS[1]).replace(b'"FP32"', b'"FP33"'),
        line_of(FINDINGS[1]).replace(b"-1", str(2**70).encode()),
        line_of(FINDINGS[1]).replace(b"false", b"0"),
        b"[" * 100_000,
    ],
)
def test_a_line_that_no_trial_writes_is_not_believed(line: bytes) -> None:
    with pytest.raises(Garbled):
        read_line(line)


async def test_a_model_may_change_its_signature_only_where_that_was_allowed(tmp_path: Path) -> None:
    candidate = written(tmp_path / "m", {"model.onnx": graphs.relu()})
    same = (await admitted(candidate)).signature
    assert dict((await admitted(candidate, live=same)).checks)["inputs and outputs"] == "as those of the live model"
    other = replace(same, outputs=(TensorSpec("score", "FP32", (-1, 1)),))
    with pytest.raises(AdmissionRefused) as refused:
        await admitted(candidate, live=other)
    assert str(refused.value) == (
        "inputs and outputs: callers of the live model would notice: output 'score' is gone; output 'y' is new"
        " (FP32 [-1, 2]); deploy it to an endpoint of its own, or say --allow-signature-change"
    )
    allowed = await admitted(candidate, live=other, is_signature_change_allowed=True)
    assert dict(allowed.checks)["inputs and outputs"].startswith("changed, as allowed: output 'score' is gone")


async def test_everything_that_was_looked_at_is_recorded_in_order(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones(2, np.float32), "w")
    files = {"model.onnx": graphs.in_branch(weights), "labels.txt": b"cat"}
    checks = (await admitted(written(tmp_path / "m", files))).checks
    assert [name for name, _ in checks] == [
        "size",
        "files",
        "signature",
        "formats",
        "graph",
        "runtime",
        "inputs and outputs",
        "golden requests",
        "warm-up",
    ]
    notes = dict(checks)
    assert notes["graph"] == "model.onnx: 5 nodes, 2 subgraphs; IR 10, opsets ai.onnx 21"
    assert notes["formats"] == "model.onnx is the model, and nothing else runs"


async def test_a_triton_repository_is_admitted_by_its_newest_version(tmp_path: Path) -> None:
    config = b'name: "net" platform: "onnxruntime_onnx" max_batch_size: 8 dynamic_batching {}'
    files = {"net/1/model.onnx": graphs.loop(2), "net/2/model.onnx": graphs.relu(), "net/config.pbtxt": config}
    notes = dict((await admitted(written(tmp_path / "m", files))).checks)
    assert notes["formats"] == "net/2/model.onnx is the model, and nothing else runs"
    assert notes["graph"].count("IR 10") == 2


async def test_python_beside_a_model_comes_in_where_that_was_allowed_and_is_noted(tmp_path: Path) -> None:
    files = {
        "pre/1/model.py": b"import json",
        "pre/config.pbtxt": b'backend: "python"',
        "net/1/model.onnx": graphs.relu(),
    }
    rules = AdmissionRules(allow_python_models=True, trial=QUICK)
    notes = dict((await admitted(written(tmp_path / "m", files), rules)).checks)
    assert notes["formats"] == "net/1/model.onnx is the model; Python code comes with it, as allow_python_models allows"
