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
from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value

from router.xds.resources import seconds


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """`stalled_s`: how long a client may take nothing of a reply.

    `early_resets`, `resets_a_second`: streams that it opens and resets over one connection, at once and on average.
    """

    handshake_s: float = 10
    headers_s: float = 10
    request_s: float = 300
    stream_idle_s: float = 300
    stalled_s: float = 60
    idle_s: float = 600
    max_headers: int = 200
    max_headers_kib: int = 60
    max_streams: int = 1000
    early_resets: int = 100_000
    resets_a_second: int = 10_000


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
    manager.http2_protocol_options.CopyFrom(_http2(limits))


def _http2(limits: ClientLimits) -> Any:
    """Envoy's own limits on frames stay: what waits to be sent (10,000 frames, 1,000 answers to pings and settings),
    window updates, priorities, frames without content. grpc-python comes to 84% of one of them, the window updates
    before any data was sent: it sends two a call and one, where two a call and five are allowed.
    """
    options = protocol_pb2.Http2ProtocolOptions(
        max_concurrent_streams=UInt32Value(value=limits.max_streams),
        initial_stream_window_size=UInt32Value(value=1024 * 1024),
        initial_connection_window_size=UInt32Value(value=16 * 1024 * 1024),
    )
    # Over so many, Envoy's codec ends the connection. Its default of 1,000, and 33 a second, is reached by a client
    # whose model hangs and whose deadlines are short (bootstrap.py has the other such limit). `stream_reset_burst` and
    # `stream_reset_rate` are newer than the wheel of Envoy's API; protobuf carries fields that it does not know.
    for number, value in ((21, limits.early_resets), (22, limits.resets_a_second)):
        options.MergeFromString(_field(number, UInt64Value(value=value).SerializeToString()))
    return options


def _field(number: int, message: bytes) -> bytes:
    """A message in a field of 16 to 2047, in protobuf's encoding; `message` is shorter than 128 bytes."""
    tag = number << 3 | 2
    return bytes((tag & 0x7F | 0x80, tag >> 7, len(message))) + message


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
