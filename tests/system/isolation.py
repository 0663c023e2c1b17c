"""A gateway in a network of its own, whose only way out is a proxy, and in which everything that leaves is seen."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.gateway import CROSSFADE, Gateway

_PROGRAM = Path(__file__).with_name("isolated.py")
_NAMESPACE = ("unshare", "--map-root-user", "--net", "--")
_ETHERNET_BYTES = 14
_IPV4 = 0x0800


def skip_without_namespaces() -> None:
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"networks of their own need the program {program} (Debian: util-linux, iproute2)")
    probe = (*_NAMESPACE, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "end")
    tried = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode != 0:
        pytest.skip(f"networks of their own are not permitted here: {tried.stderr.strip()}")


class Outside:
    """What has left a network. `upstream`: the port of this machine's proxy, to which alone there is a way."""

    def __init__(self, folder: Path, upstream: int) -> None:
        self.path = folder / "outside.sock"
        self._upstream = upstream
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self.path))
        self._door.listen()
        self._handed: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def packets(self) -> list[str]:
        """Where they wanted to go, since this was asked last."""
        return [_destination(packet) for packet in _received(self._handed[0])]

    def questions(self) -> int:
        """For names, at this machine's port 53, since this was asked last."""
        return len(_received(self._handed[1]))

    def close_way(self) -> None:
        """From now on the proxy refuses connections."""
        self._handed[2].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self._door, *self._handed):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._thread.join(30)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            guest, _ = self._door.accept()
            with guest:
                _, descriptors, _, _ = socket.recv_fds(guest, 1, 3)
                self._handed = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            while True:
                connection, _ = self._handed[2].accept()
                threading.Thread(target=self._connect, args=(connection,), daemon=True).start()

    def _connect(self, connection: socket.socket) -> None:
        with connection, socket.create_connection(("127.0.0.1", self._upstream)) as beyond:
            back = threading.Thread(target=_pump, args=(beyond, connection), daemon=True)
            back.start()
            _pump(connection, beyond)
            back.join()


class IsolatedGateway(Gateway):
    """Asked by its command line alone, which runs in its network."""

    def __init__(self, folder: Path, outside: Outside, options: Sequence[str], environment: Mapping[str, str]) -> None:
        super().__init__(folder, options, environment)
        self._outside = outside

    def command(self, *specs: Path) -> list[str]:
        return [*_NAMESPACE, sys.executable, "-S", str(_PROGRAM), str(self._outside.path), *super().command(*specs)]

    def inside(self, *command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        assert self._process is not None
        enter = ("nsenter", "--user", "--net", "--preserve-credentials", "--target", str(self._process.pid), "--")
        return subprocess.run((*enter, *command), env=self.clients, capture_output=True, text=True, timeout=timeout_s)

    def run(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.inside(CROSSFADE, *arguments, timeout_s=timeout_s)


@contextmanager
def an_isolated_gateway(
    folder: Path, upstream: int, options: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple[IsolatedGateway, Outside]]:
    """Not started yet."""
    outside = Outside(folder, upstream)
    gateway = IsolatedGateway(folder, outside, options, environment)
    try:
        yield gateway, outside
    finally:
        gateway.end_for_certain()
        outside.close()


def _received(listening: socket.socket) -> list[bytes]:
    listening.setblocking(False)
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(listening.recv(65536))
    return found


def _destination(packet: bytes) -> str:
    (kind,) = struct.unpack_from("!H", packet, 12)
    if kind != _IPV4:
        return f"a packet of kind {kind:#06x}"
    header = packet[_ETHERNET_BYTES:]
    (port,) = struct.unpack_from("!H", header, (header[0] & 15) * 4 + 2)
    return f"{socket.inet_ntoa(header[16:20])}, protocol {header[9]}, port {port}"


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
