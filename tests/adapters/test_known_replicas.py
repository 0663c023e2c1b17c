"""Which replicas of an earlier run are still there."""

from __future__ import annotations

import socket
from pathlib import Path

from router.domain.routing import Address, Replica, ReplicaState, TcpAddress, TritonAddress, UnixAddress
from router.known_replicas import may_live


def at(address: Address, replica_id: str = "ab12") -> Replica:
    return Replica(replica_id, "e", "blue", "g", address, ReplicaState.READY)


def test_one_whose_socket_file_is_gone_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "replica.sock"
    assert not may_live(at(UnixAddress(str(path))))
    path.touch()
    assert may_live(at(UnixAddress(str(path))))


def test_a_triton_of_ours_is_there_while_somebody_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert not may_live(at(TritonAddress("127.0.0.1", port, 1)))
        server.listen()
        assert may_live(at(TritonAddress("127.0.0.1", port, 1)))


def test_whoever_is_elsewhere_may_be_there_unless_it_was_only_found() -> None:
    assert may_live(at(TcpAddress("10.0.0.7", 1)))
    assert may_live(at(TritonAddress("10.0.0.7", 1, 2)))
    assert not may_live(at(TritonAddress("10.0.0.7", 1, 2), "triton~e~blue~g~host:1~10.0.0.7"))
