"""What must be true before a gateway starts: real files, locks and ports, no gateway."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from router.config import GatewayConfig, Ports, kept_secret, run_dir_for
from router.domain.errors import Invalid
from router.premises import CannotStart, begin_run, check_ports, end_run, free_port, last_run, locked, prepare

HOLD = """
import sys, pathlib
from router.premises import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def some_ports() -> Ports:
    return Ports(*(free_port() for _ in range(4)))


def test_a_data_directory_has_one_gateway_at_a_time_and_the_second_hears_whose(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(CannotStart, match=rf"process {os.getpid()}\) uses the data directory .*--data-dir"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        assert Path(tmp_path, "lock").read_text() == str(os.getpid())
    assert Path(tmp_path, "lock").read_text() == ""


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(CannotStart, match=f"process {holder.pid}"), locked(tmp_path):
            pass
        holder.kill()
        holder.wait(timeout=10)
    with locked(tmp_path):
        pass


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    Path(tmp_path, "file").touch()
    with (
        pytest.raises(CannotStart, match="file/data cannot be used: Not a directory"),
        locked(tmp_path / "file" / "data"),
    ):
        pass


def test_every_taken_port_is_named_with_its_option() -> None:
    ports = some_ports()
    with socket.create_server(("127.0.0.1", ports.grpc)), socket.create_server(("127.0.0.1", ports.admin)):
        with pytest.raises(CannotStart) as refusal:
            check_ports("127.0.0.1", ports)
        text = str(refusal.value)
        assert re.findall(r"--(\w+)-port", text) == ["grpc", "admin"]
        assert f"127.0.0.1:{ports.grpc}" in text
    check_ports("127.0.0.1", ports)


@pytest.mark.parametrize(("ports", "key"), [((0, 1, 2, 3), "--http-port"), ((1, 2, 2, 3), "--grpc-port")])
def test_ports_are_ports_and_differ(ports: tuple[int, int, int, int], key: str) -> None:
    with pytest.raises(Invalid) as refusal:
        Ports(*ports)
    assert refusal.value.key == key


def test_preparing_makes_private_directories_and_secrets_that_outlive_the_run(tmp_path: Path) -> None:
    first = prepare(tmp_path, "127.0.0.1", some_ports(), None)
    second = prepare(tmp_path, "127.0.0.1", some_ports(), None)
    try:
        assert first.gateway_id == second.gateway_id
        assert first.gateway_token == second.gateway_token
        assert kept_secret(first.admin_token_file) == kept_secret(second.admin_token_file)
        for secret in (second.admin_token_file, second.gateway_token_file, second.ray_token_file):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
            assert len(secret.read_text().strip()) >= 43  # 256 bits
        for directory in (Path(second.run_dir), second.replica_dir, second.waiting_room_dir, second.ray_dir):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert second.is_ray_ours
        assert second.ray_address.startswith("127.0.0.1:")
        assert GatewayConfig.read(str(second.write())) == second
    finally:
        end_run(second)
    assert not Path(second.run_dir).exists()


def test_what_an_earlier_run_left_in_the_run_directory_is_removed(tmp_path: Path) -> None:
    config = prepare(tmp_path, "127.0.0.1", some_ports(), "10.0.0.5:6379")
    try:
        stale = config.replica_dir / "dead.sock"
        stale.touch()
        config = prepare(tmp_path, "127.0.0.1", some_ports(), "10.0.0.5:6379")
        assert not stale.exists()
        assert (config.ray_address, config.is_ray_ours) == ("10.0.0.5:6379", False)
    finally:
        end_run(config)


def test_run_directories_are_short_enough_for_sockets_however_deep_the_data_lies(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["directory"] * 30)
    assert len(str(run_dir_for(deep) / "replicas" / "0123456789ab.sock")) < 100
    assert run_dir_for(deep) != run_dir_for(tmp_path)


def test_a_run_is_remembered_until_it_ends(tmp_path: Path) -> None:
    assert last_run(tmp_path) is None
    run_id = begin_run(tmp_path)
    assert last_run(tmp_path) == run_id
    config = prepare(tmp_path, "127.0.0.1", some_ports(), None)
    end_run(config)
    assert last_run(tmp_path) is None
    Path(tmp_path, "run.json").write_text("{half")
    assert last_run(tmp_path) is None
