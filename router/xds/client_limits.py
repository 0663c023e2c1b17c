"""What any one client may do to a listener: sizes, numbers, and how long it may take. The process as a whole is bounded
by its overload manager (bootstrap.py), endpoints by their limits (limits.py).

Every phase of a request has a time: the TLS handshake; the headers; the whole request, which the buffer waits for
before a replica sees a byte; the reply, which the client must take. A stream ends when nothing passes, or when its
first answer does not come; a connection, when it is idle. A client that takes nothing is the kernel's to notice when
all of the reply is in its buffers: TCP_USER_TIMEOUT counts the time of a closed window as well.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import protocol_pb2, socket_option_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from router.xds.resources import seconds


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """`stalled_s`: how long a client may take nothing of a reply."""

    handshake_s: float = 10
    headers_s: float = 10
    request_s: float = 300
    stream_idle_s: float = 300
    stalled_s: float = 60
    idle_s: float = 600
    max_headers: int = 200
    max_headers_kib: int = 60
    max_streams: int = 1000


def keep_limits(manager: Any, limits: ClientLimits) -> None:
    """On a connection manager that strangers speak to."""
    manager.request_headers_timeout.CopyFrom(seconds(limits.headers_s))
    manager.request_timeout.CopyFrom(seconds(limits.request_s))
    manager.stream_idle_timeout.CopyFrom(seconds(limits.stream_idle_s))
    manager.stream_flush_timeout.CopyFrom(seconds(limits.stalled_s))
    manager.max_request_headers_kb.value = limits.max_headers_kib
    manager.common_http_protocol_options.CopyFrom(
        protocol_pb2.HttpProtocolOptions(
            idle_timeout=seconds(limits.idle_s), max_headers_count=UInt32Value(value=limits.max_headers)
        )
    )
    # Envoy's own limits on frames stay: what waits to be sent (10,000 frames, 1,000 answers to pings and settings),
    # window updates, priorities, empty frames. grpc-python comes to 84% of one of them at most: window updates, two a
    # call, before Envoy has sent any data (tests/envoy/test_limits.py).
    manager.http2_protocol_options.CopyFrom(
        protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams=UInt32Value(value=limits.max_streams),
            initial_stream_window_size=UInt32Value(value=1024 * 1024),
            initial_connection_window_size=UInt32Value(value=16 * 1024 * 1024),
        )
    )


def socket_options(limits: ClientLimits) -> list[Any]:
    """Of a listener; its connections inherit them."""
    return [
        socket_option_pb2.SocketOption(
            description="a client that takes nothing of a reply is gone",
            level=socket.IPPROTO_TCP,
            name=socket.TCP_USER_TIMEOUT,
            int_value=int(limits.stalled_s * 1000),
            state=socket_option_pb2.SocketOption.STATE_PREBIND,
        )
    ]
