"""A whole gateway as a user runs it, `crossfade up` in a process of its own, and what tests need to look at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import free_port, kind_of
from router.client import AdminClient
from router.client_errors import Unreachable
from router.config import Ports, run_dir_for
from router.supervisor import RUN_VARIABLE

CROSSFADE = str(Path(sys.executable).with_name("crossfade"))
ROOT = Path(__file__).parents[2]

# Generous: a busy machine with two cores starts Ray in a minute.
START_TIMEOUT_S = 150.0
SETTLE_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0


class Gateway:
    """One data directory and four ports, on which `crossfade up` can be started, ended and started again.

    `options`: more of `up`'s; `environment`: variables that it has beside those of the tests.
    """

    def __init__(self, folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._options = tuple(options)
        self._environment = {**os.environ, **(environment or {})}
        self.data_dir = folder / "data"
        self.ports = Ports(*(free_port() for _ in range(4)))
        self.output = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._run_ids: list[str] = []
        self._admin: AdminClient | None = None

    # -- addresses

    @property
    def scoring(self) -> str:
        """host:port, as tritonclient wants it."""
        return f"127.0.0.1:{self.ports.http}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def url(self) -> str:
        return f"http://{self.scoring}"

    @property
    def run_dir(self) -> Path:
        return run_dir_for(self.data_dir)

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            token = Path(self.data_dir, "admin.token").read_text().strip()
            self._admin = AdminClient(f"http://127.0.0.1:{self.ports.admin}", token)
        return self._admin

    # -- life

    def command(self, *specs: Path) -> list[str]:
        ports = self.ports
        return [
            *(CROSSFADE, "up", "--data-dir", str(self.data_dir)),
            *(f"--http-port={ports.http}", f"--grpc-port={ports.grpc}"),
            *(f"--metrics-port={ports.metrics}", f"--admin-port={ports.admin}"),
            *self._options,
            *(part for spec in specs for part in ("-f", str(spec))),
        ]

    def start(self, *specs: Path) -> None:
        """Returns when it says that it is up."""
        self.begin(*specs)
        eventually(lambda: not self.is_running or "Ctrl-C stops" in self.said, START_TIMEOUT_S, self.story)
        assert self.is_running, self.story()

    def begin(self, *specs: Path) -> None:
        """Returns when its run has an id, with which its processes are found."""
        self.output.write_bytes(b"")
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(*specs),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        eventually(lambda: not self.is_running or self._new_run_id(), START_TIMEOUT_S, self.story)
        assert self.is_running, self.story()
        self._run_ids.append(self._new_run_id())

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait_for_end(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def end_for_certain(self) -> None:
        """For clean-up: whatever state a failed test left behind."""
        if self._admin is not None:
            self._admin.__exit__(None, None, None)
        if self._process is not None and self.is_running:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for process in self.processes():
            process.kill()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def _new_run_id(self) -> str:
        """Empty as long as the file is missing, half written, or an earlier run's."""
        try:
            run_id = str(json.loads(Path(self.data_dir, "run.json").read_text())["run"])
        except (FileNotFoundError, ValueError):
            return ""
        return "" if run_id in self._run_ids else run_id

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def story(self) -> str:
        """What it said, and the ends of its logs."""
        logs = sorted(Path(self.data_dir, "logs").glob("*.log"))
        tails = [f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]) for path in logs]
        return "\n".join([f"crossfade up said:\n{self.said}", *tails])

    # -- processes

    def processes(self) -> list[psutil.Process]:
        """Every living process of any run: those that carry a run's id, and those that name its run directory."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(RUN_VARIABLE) in self._run_ids
                is_ours |= any(str(self.run_dir) in part for part in process.cmdline())
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue  # ended while we looked, or another user's
        return found

    def kinds(self) -> list[str]:
        return sorted(_kind(process) for process in self.processes())

    def find(self, kind: str) -> list[psutil.Process]:
        """Processes by what they do: `router.app`, `envoy`, `gcs_server`, `ServeReplica` …"""
        return [process for process in self.processes() if _kind(process) == kind]

    def replicas_of(self, endpoint: str, deployment: str) -> list[psutil.Process]:
        """A replica's title names what it serves between tildes."""
        return [
            process for process in self.find("ServeReplica") if f"~{endpoint}~{deployment}~" in process.cmdline()[0]
        ]

    def assert_nothing_is_left(self, timeout_s: float = 0.0) -> None:
        """No process, socket, lock holder or run directory."""
        eventually(lambda: not self.processes(), timeout_s, lambda: f"left: {self.kinds()}")
        assert not self.run_dir.exists()
        assert not Path(self.data_dir, "run.json").exists()
        for port in (self.ports.http, self.ports.grpc, self.ports.metrics, self.ports.admin):
            assert not _is_listened_on(port)

    # -- changes

    def apply(self, *documents: Mapping[str, Any]) -> None:
        self.in_force(self.admin.apply([dict(document) for document in documents]))

    def set_traffic(
        self, percents: Mapping[str, int], mirror: Mapping[str, int] | None = None, endpoint: str = "mlp"
    ) -> None:
        change = {"traffic": dict(percents), "mirror_traffic": dict(mirror or {})}
        self.in_force(self.admin.change_traffic(endpoint, change))

    def scale(self, deployment: str, instance_count: int, endpoint: str = "mlp") -> None:
        self.in_force(self.admin.scale(endpoint, deployment, instance_count))

    def delete(self, deployment: str, endpoint: str = "mlp") -> None:
        self.in_force(self.admin.delete_deployment(endpoint, deployment))

    def in_force(self, done: Mapping[str, Any], timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until every proxy has acknowledged what was done."""
        give_up_at = time.monotonic() + timeout_s
        for endpoint, revision in done["revisions"].items():
            settled = {"outcome": "pending", "reason": ""}
            while settled["outcome"] == "pending":
                assert time.monotonic() < give_up_at, settled
                settled = self.admin.settled(endpoint, revision, timeout_s=10)
            assert settled["outcome"] == "in_force", settled

    def is_up_to_date(self) -> bool:
        """Whether the control plane answers, and every proxy has what it was last given."""
        try:
            proxies = self.admin.status()["proxies"]
        except Unreachable:
            return False
        return bool(proxies) and all(proxy["is_up_to_date"] for proxy in proxies)

    # -- the command line

    def run(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`crossfade …` against this gateway."""
        return subprocess.run(
            [CROSSFADE, *arguments], env=self.clients, capture_output=True, text=True, timeout=timeout_s
        )

    @property
    def clients(self) -> dict[str, str]:
        """Their environment."""
        where = {
            "CROSSFADE_ADMIN_URL": f"http://127.0.0.1:{self.ports.admin}",
            "CROSSFADE_DATA_DIR": str(self.data_dir),
        }
        return {**os.environ, **where}


@contextmanager
def a_gateway(
    folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """Not started yet. Ctrl-C must end it, if the test has not, and nothing may be left of it."""
    gateway = Gateway(folder, options, environment)
    try:
        yield gateway
        if gateway.is_running:
            gateway.send(signal.SIGINT)
            assert gateway.wait_for_end() == 0, gateway.said
        gateway.assert_nothing_is_left()
    finally:
        gateway.end_for_certain()


def eventually(
    is_so: Callable[[], Any], timeout_s: float, trouble: Callable[[], str] = lambda: "", pause_s: float = 0.05
) -> None:
    """Poll until `is_so`; `trouble` says more when the time is over."""
    give_up_at = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up_at, f"not so after {timeout_s:g} s. {trouble()}"
        time.sleep(pause_s)


def write_spec(path: Path, documents: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("\n---\n".join(json.dumps(document) for document in documents))  # JSON is YAML
    return path


def endpoint(name: str, traffic: Mapping[str, int]) -> dict[str, Any]:
    """A spec document."""
    return {"kind": "Endpoint", "name": name, "traffic": dict(traffic)}


def deployment(endpoint_name: str, name: str, model: Path, **more: Any) -> dict[str, Any]:
    """A spec document. The version is the deployment's name, unless `more` says otherwise."""
    return {
        "kind": "Deployment",
        "name": name,
        "endpoint": endpoint_name,
        "model": f"file:{model}",
        "model_version": name,
        "resources": {"cpu": 0.2},
        **more,
    }


def _kind(process: psutil.Process) -> str:
    try:
        return kind_of(process)
    except psutil.Error:
        return "gone"


def _is_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
