"""Which of the replicas that are known from before a restart may still live: asked of this machine, at once."""

from __future__ import annotations

import os
import socket

from router.domain.routing import Replica, TritonAddress, UnixAddress
from router.tritons import is_found

_LOOPBACK = "127.0.0.1"


def may_live(replica: Replica) -> bool:
    """One whose socket file is gone, or at whose port nobody listens any more, is from an earlier run.

    Of one on another host nothing can be said here. A Triton that was found is none that runs for us.
    """
    match replica.address:
        case UnixAddress(path):
            return os.path.exists(path)
        case TritonAddress(ip, port, _) if ip == _LOOPBACK:
            return not is_found(replica) and _is_listened_on(port)
        case _:
            return not is_found(replica)


def _is_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_LOOPBACK, port)) == 0
