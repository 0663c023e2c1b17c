"""The hot path: a request whose path names its endpoint, `/v2/models/<endpoint>/…`, passes what its endpoint needs, and
no filter more.

Every filter runs unless a route says otherwise, and Envoy asks the route once, when the headers have come. What has no
route by then (gRPC calls, `/endpoints/<endpoint>/score`, calls about the server) passes them all, as do requests to
nobody. That is safe, whatever route is found later: an endpoint's routes match nothing but paths below its own
`/v2/models/<endpoint>`, and from there no filter leads to another endpoint (translation.py drops the query, no more).
So what such a route switches off is switched off for its own endpoint alone. The last gate (access.py) is switched off
by nobody but an endpoint that is open to everybody.

Measured (two-core machine, not idle, CPU of Envoy per JSON request, in turns, means of the better half): an open
endpoint in plain text takes 61 µs, and 66 with all filters in place; one with TLS and a key 76, and 83, of which 3 are
the hash that access.py remembers.
"""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from router.domain.deployment_settings import MIB
from router.xds.extensions import discovered_filter, extension
from router.xds.gateway import Gateway
from router.xds.names import EXTENSION, Key
from router.xds.resources import Resource, packed
from router.xds.translation import for_named_calls, for_server_calls

BUFFER_FILTER = "crossfade.buffer"
_NAMED_BUFFER, _SERVER_BUFFER = "crossfade.buffer.named", "crossfade.buffer.server"
NAMED_BOUND = Key(EXTENSION, _NAMED_BUFFER)

# Calls about the server say little; its replicas take no more either.
MAX_SERVER_BYTES = MIB


def buffers(gateway: Gateway) -> list[Any]:
    """A replica never waits for a slow client, and limits are kept before it sees a byte.

    Where the path names the endpoint, its routes switch the buffer on: for a name that nobody has, nothing is gathered.
    Other calls are gathered as far as their kind may go, and other paths not at all. How far those may go that name
    their endpoint elsewhere is `named_bound`.
    """
    return [
        hcm_pb2.HttpFilter(name=BUFFER_FILTER, typed_config=packed(_buffer(gateway.max_request_bytes)), disabled=True),
        discovered_filter(_NAMED_BUFFER, extension_matcher_pb2.ExtensionWithMatcher()),
        for_server_calls(_SERVER_BUFFER, packed(_buffer(MAX_SERVER_BYTES))),
    ]


def named_bound(max_bytes: int) -> Resource:
    """How much is gathered of a call before its endpoint is known (room.py)."""
    return extension(_NAMED_BUFFER, for_named_calls(_NAMED_BUFFER, packed(_buffer(max_bytes))).typed_config)


def buffering(max_bytes: int) -> dict[str, Any]:
    """What an endpoint's routes say to the buffers."""
    own = buffer_pb2.BufferPerRoute(buffer=_buffer(max_bytes))
    config = route_components_pb2.FilterConfig(config=packed(own))
    return {BUFFER_FILTER: packed(config), **without(_NAMED_BUFFER, _SERVER_BUFFER)}


def without(*names: str) -> dict[str, Any]:
    """What an endpoint's routes say of the filters that it tells nothing: they are not even there.

    Not of those that it tells something for calls that find it later: Envoy keeps one or the other.
    """
    off = packed(route_components_pb2.FilterConfig(disabled=True))
    return dict.fromkeys(names, off)


def _buffer(max_bytes: int) -> Any:
    return buffer_pb2.Buffer(max_request_bytes=UInt32Value(value=max_bytes))
