"""Keeps Ray Serve's own gRPC server in each replica off the network.

Since 2.5x every replica opens one on all addresses, for calls between Serve deployments. Nobody here makes such calls:
requests reach replicas through Envoy. It asks for Ray's token, but what it would read is a pickle, so nobody outside
this machine should come near it; and Ray has no setting for its address (ray/serve/_private/replica.py,
`_on_initialized`).
"""

from __future__ import annotations

from typing import Any

from ray.serve._private import replica

_ANYWHERE = "[::]:0"
_HERE = "127.0.0.1:0"


def keep_internal_server_local() -> None:
    """Call it in a replica's process before its constructor returns. Raises when this Ray does it another way."""
    open_port = getattr(replica, "add_port_to_grpc_server", None)
    if open_port is None:
        raise RuntimeError(
            "this version of Ray opens its replicas' servers in another way: see adapters/ray/loopback.py"
        )
    if isinstance(open_port, _OnLoopback):
        return
    setattr(replica, "add_port_to_grpc_server", _OnLoopback(open_port))  # noqa: B010 (mypy knows it is not exported)


class _OnLoopback:
    def __init__(self, open_port: Any) -> None:
        self._open_port = open_port

    def __call__(self, server: Any, address: str) -> int:
        if address != _ANYWHERE:
            raise RuntimeError(f"Ray would listen on {address}: see adapters/ray/loopback.py")
        port: int = self._open_port(server, _HERE)
        return port
