"""What must be true before a gateway starts: the data directory is ours, the ports are free, nothing is left over."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from router.config import LOOPBACK, GatewayConfig, Ports, kept_secret, run_dir_for
from router.domain.errors import CrossfadeError


class CannotStart(CrossfadeError):
    """The gateway cannot start here. The message says why and what to do."""


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory. Raises `CannotStart` at once when another gateway has it.

    The kernel drops the lock when the process ends, however it ends.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (data_dir / "lock").open("a+")
    except OSError as error:
        raise CannotStart(f"the data directory {data_dir} cannot be used: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise CannotStart(
                f"another gateway (process {holder}) uses the data directory {data_dir}; "
                "stop it, or give this one its own with --data-dir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def check_ports(bind: str, ports: Ports, admin_bind: str = LOOPBACK, metrics_bind: str = LOOPBACK) -> None:
    """Raises `CannotStart` naming every port that somebody else has."""
    wanted = [
        ("http", bind, ports.http),
        ("grpc", bind, ports.grpc),
        ("metrics", metrics_bind, ports.metrics),
        ("admin", admin_bind, ports.admin),
    ]
    if ports.redirect_http:
        wanted.append(("redirect-http", bind, ports.redirect_http))
    taken = []
    for name, address, port in wanted:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                taken.append(f"{address}:{port} ({str(error.strerror).lower()}; choose another with --{name}-port)")
    if taken:
        raise CannotStart("cannot listen on " + " and ".join(taken))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def prepare(data_dir: Path, bind: str, ports: Ports, ray_address: str | None) -> GatewayConfig:
    """Make the directories and secrets of a gateway. Call it under `locked`; the run directory is made anew."""
    run_dir = run_dir_for(data_dir)
    try:
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.mkdir(mode=0o700)
    except OSError as error:
        raise CannotStart(f"the run directory {run_dir} cannot be made: {error.strerror}") from error
    config = GatewayConfig(
        gateway_id=_gateway_id(data_dir),
        data_dir=str(data_dir),
        run_dir=str(run_dir),
        bind=bind,
        ports=ports,
        ray_address=ray_address or f"{LOOPBACK}:{free_port()}",
        is_ray_ours=ray_address is None,
    )
    for directory in (config.replica_log_dir, config.replica_dir, config.waiting_room_dir, config.ray_dir):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _keep_from_tidying(run_dir)
    for secret in (config.admin_token_file, config.gateway_token_file, config.ray_token_file):
        kept_secret(secret)
    return config


def _keep_from_tidying(run_dir: Path) -> None:
    """Hold a lock on the run directory until this process ends: systemd-tmpfiles tidies no locked directory."""
    descriptor = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def last_run(data_dir: Path) -> str | None:
    """The id of the run that used the data directory before, when it did not end cleanly."""
    try:
        return str(json.loads((data_dir / "run.json").read_text())["run"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def begin_run(data_dir: Path) -> str:
    """Note a new run, so that a later one can clear up after it. Returns its id."""
    run_id = secrets.token_hex(8)
    (data_dir / "run.json").write_text(json.dumps({"run": run_id}))
    return run_id


def end_run(config: GatewayConfig) -> None:
    """Nothing is left to clear up."""
    shutil.rmtree(config.run_dir, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        Path(config.data_dir, "run.json").unlink()


def _gateway_id(data_dir: Path) -> str:
    path = data_dir / "gateway.id"
    with contextlib.suppress(FileNotFoundError):
        if gateway_id := path.read_text().strip():
            return gateway_id
    gateway_id = f"cf{secrets.token_hex(3)}"
    path.write_text(gateway_id + "\n")
    return gateway_id
