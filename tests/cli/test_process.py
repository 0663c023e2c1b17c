"""The command as a process: start-up time, signals, pipes, and what the doctor finds."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from router.cli.checks import Finding, Verdict, cuda_finding, examine, port_finding
from router.client import AdminClient
from router.client_errors import Refused
from router.domain.rollout import Phase
from tests.cli.conftest import Terminal
from tests.cli.test_commands import SPEC
from tests.fake_rollouts import MINUTE, PASS, UNSURE
from tests.fakes import TOKEN

COMMAND = [sys.executable, "-c", "from router.cli import main; main()"]


def environment(terminal: Terminal) -> dict[str, str]:
    own = {"CROSSFADE_ADMIN_URL": terminal.url, "CROSSFADE_DATA_DIR": str(terminal.data_dir)}
    return {**os.environ, **own}


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'httpx', 'fastapi', 'ray', 'ruamel', 'grpc', 'onnxruntime', 'numpy', 'uvicorn'}"
    probe = f"import sys, router.cli; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ctrl_c_while_waiting_exits_130_without_a_traceback(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC))
    terminal.bench.reconciler.held.add("e")
    waiting = subprocess.Popen(
        [*COMMAND, "endpoint", "update", "e", "--traffic", "green=100"],
        env=environment(terminal),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    assert "waiting: blue: 0 of 1 replicas ready" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    _, rest = waiting.communicate(timeout=10)
    assert waiting.returncode == 130
    assert "Traceback" not in rest


def watching(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC))
    assert terminal.run("rollout", "start", "e", "--to", "green", "--strategy", "all_at_once").code == 0


def test_ctrl_c_while_watching_leaves_the_rollout_running_and_says_so(terminal: Terminal) -> None:
    watching(terminal)
    looking = subprocess.Popen(
        [*COMMAND, "rollout", "watch", "e"],
        env=environment(terminal),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert looking.stdout is not None
    assert "started: blue → green" in looking.stdout.readline()
    looking.send_signal(signal.SIGINT)
    _, words = looking.communicate(timeout=30)
    assert looking.returncode == 130
    assert "The rollout goes on. Look again: crossfade rollout watch e." in words
    assert "Traceback" not in words
    assert terminal.bench.rollouts.latest("e").phase is Phase.PROGRESSING


def test_on_a_terminal_the_rollout_is_drawn_in_place(terminal: Terminal) -> None:
    watching(terminal)
    terminal.bench.rollouts.script = [UNSURE, PASS, MINUTE]
    ours, theirs = pty.openpty()
    looking = subprocess.Popen(
        [*COMMAND, "rollout", "watch", "e"],
        env={**environment(terminal), "COLUMNS": "60", "LINES": "12"},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side has closed
        while chunk := os.read(ours, 4096):
            drawn += chunk
    os.close(ours)
    looking.communicate(timeout=30)
    assert looking.returncode == 0
    pictures = re.split(r"\x1b\[[0-9]+F\x1b\[J", drawn.decode())
    assert len(pictures) >= 3
    assert "step 2 of 2 (analyze, 60 s or more)" in pictures[0]
    assert "inconclusive" in pictures[1]
    assert "promoted: green has all the traffic" in pictures[-1]
    for picture in pictures:
        lines = picture.splitlines()
        assert len(lines) <= 11
        assert all(len(line) < 60 for line in lines)


def test_a_reader_that_goes_away_is_no_reason_for_a_traceback(terminal: Terminal) -> None:
    gone = subprocess.Popen([*COMMAND, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert gone.stdout is not None
    assert gone.stderr is not None
    gone.stdout.close()
    assert "Traceback" not in gone.stderr.read()
    gone.stderr.close()
    gone.wait(timeout=10)


def test_events_are_followed_as_they_come(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC))
    seen: list[str] = []
    has_begun, has_all = threading.Event(), threading.Event()

    def follow() -> None:
        with AdminClient(terminal.url, TOKEN) as client:
            for event in client.follow_events():
                if event["kind"] == "model_pulled":  # of both deployments, before they are created
                    continue
                seen.append(event["message"])
                if len(seen) == 3:
                    has_begun.set()
                if len(seen) == 4:
                    has_all.set()
                    return

    follower = threading.Thread(target=follow)
    follower.start()
    assert has_begun.wait(10)
    terminal.run("endpoint", "update", "e", "--traffic", "blue=50 green=50")
    assert has_all.wait(10)
    follower.join()
    assert seen[3] == "endpoint e changed: traffic blue=100 → blue=50 green=50"


def test_following_with_a_wrong_token_is_refused(terminal: Terminal) -> None:
    with AdminClient(terminal.url, "wrong") as client, pytest.raises(Refused, match="admin token"):
        next(client.follow_events())


def test_many_clients_at_once_never_lose_a_revision(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC))
    outcomes: list[int] = []

    def shift(percent: int) -> None:
        with httpx.Client(base_url=terminal.url, headers={"authorization": f"Bearer {TOKEN}"}) as http:
            for _ in range(5):
                tag = http.get("/api/v1/endpoints/e").headers["etag"]
                change = {"traffic": {"blue": 100 - percent, "green": percent}}
                outcomes.append(http.patch("/api/v1/endpoints/e", json=change, headers={"if-match": tag}).status_code)
                percent = (percent + 37) % 101

    threads = [threading.Thread(target=shift, args=(percent,)) for percent in (3, 13, 23, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {200, 409}
    state = terminal.bench.store.load()["e"]
    # An accepted change to the percents that are there already makes no new revision.
    assert 1 < state.revision <= 1 + outcomes.count(200)
    assert state == terminal.bench.desired.state("e")


def test_the_doctor_finds_this_environment_fit(tmp_path: Path) -> None:
    findings = {finding.check: finding for finding in examine(tmp_path)}
    for check in ("python", "packages", "onnxruntime", "ray", "envoy", "data directory"):
        assert findings[check].verdict is Verdict.OK, findings[check]
    assert "CPU" in findings["onnxruntime"].detail
    assert "CUDA" in findings["cuda"].detail
    assert "1.40" in findings["envoy"].detail
    assert {f"port {port}" for port in (8000, 8001, 8002, 8003)} <= findings.keys()


@pytest.mark.parametrize(
    ("has_gpu", "version", "missing", "tensorrt", "verdict", "detail", "advice"),
    [
        (True, "13.0", [], "101300", Verdict.OK, "all libraries found; TensorRT 101300", ""),
        (True, "13.0", [], "", Verdict.OK, "all libraries found; no TensorRT", ""),
        (True, "13.0", ["libcudnn.so.9"], "", Verdict.WARN, "not found: libcudnn.so.9", "extra `gpu`"),
        (False, "13.0", ["libcuda.so.1"], "", Verdict.OK, "not found: libcuda.so.1", ""),
        (True, "", [], "", Verdict.WARN, "has no CUDA", "onnxruntime-gpu"),
        (False, "", [], "", Verdict.OK, "has no CUDA", ""),
    ],
)
def test_the_doctor_says_whether_cuda_could_run_and_advises_where_there_is_a_gpu(
    has_gpu: bool, version: str, missing: list[str], tensorrt: str, verdict: Verdict, detail: str, advice: str
) -> None:
    finding = cuda_finding(has_gpu, version, missing, tensorrt)
    assert finding.verdict is verdict
    assert detail in finding.detail
    assert advice in finding.advice
    assert bool(finding.advice) is bool(advice)


def test_the_doctor_says_who_has_a_port(terminal: Terminal) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        port = squatter.getsockname()[1]
        taken = port_finding(port, "scoring")  # bound, but nobody listens
    assert (taken.verdict, taken.detail) == (Verdict.WARN, "scoring: address already in use")
    assert "another port" in taken.advice
    assert port_finding(port, "scoring") == Finding(f"port {port}", Verdict.OK, "free for scoring")
    ours = port_finding(int(terminal.url.rpartition(":")[2]), "admin API")
    assert (ours.verdict, ours.detail) == (Verdict.OK, "admin API: a Crossfade gateway answers")


def test_the_doctor_prints_json_and_fails_for_a_directory_that_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*COMMAND, "doctor", "-o", "json", "--data-dir", str(tmp_path / "file" / "data")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    checks = {item["check"]: item for item in json.loads(done.stdout)["checks"]}
    assert checks["data directory"]["verdict"] == "fail"
    assert "--data-dir" in checks["data directory"]["advice"]
    assert done.returncode == 1
