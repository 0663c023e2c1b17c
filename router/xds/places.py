"""Places: how many requests may be under way at an endpoint, of all of its callers and of each.

Envoy counts what is under way by cluster, and nothing else. An endpoint has several, and callers have none. So a module
for Envoy's WebAssembly filter counts: it is 300 lines of text (places.wat), knows nothing but a few numbers and names
that come with an endpoint's routes, and stands behind the gates of access.py, so strangers take no place. Whoever finds
none is answered at once (local_replies.py) and no deployment was asked. A request takes one place however often it is
tried, shielded or mirrored, and holds it until its stream is over, whatever ends it.

The module comes with the routes of endpoints that ask for it. A gateway without such an endpoint does not load it, and
other endpoints pay nothing. A number that changes comes with the routes as well: counts go on. All workers of an Envoy
count together; several Envoys count each for itself.

Lua cannot do it: every worker has a machine of its own, and no script learns of a stream that was broken off. A circuit
breaker on the way to a second pass through Envoy, as copies take it (mirror_listener.py), costs that pass, has no
answer for callers that are not known beforehand, and every request would have two halves: two logs, two deadlines.

Measured (2-core machine, not idle, CPU of Envoy per JSON request, 32 connections of wrk, medians of five turns each,
`python -m benchmarks.hostile --only limits` twice): 48.1 and 47.4 µs with a number that is never reached, 41.9 and 39.8
without. The module takes 12 ms and 16 MB (two workers) when the first endpoint asks for it, and 26 KB for each one
more. After 94,000 requests, 27,000 calls and 11,000 streams that were broken off at any moment, while replicas were
killed and the limit changed 657 times, every count was what it should be; so it was after 91,000 more.

Envoy's documentation says of this filter that it has not been used much in production, and trusts it where modules are
trusted. This one is ours, and of what strangers send it sees the name of a caller who was let in, of which it keeps a
hash. It can call nothing but the five functions that it needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.wasm.v3 import wasm_pb2 as filter_wasm_pb2
from envoy.extensions.wasm.v3 import wasm_pb2
from google.protobuf.wrappers_pb2 import BytesValue

from router.domain.callers import Access, CertificateHolders, KeyHolders, TokenHolders
from router.domain.limits import Limits
from router.xds.composites import empty_place, running
from router.xds.gateway import ADMITTED_HEADER, LIMITS_METADATA, Gateway
from router.xds.hot_path import without
from router.xds.resources import packed
from router.xds.tokens import subject_path

_FILTER = "crossfade.places"
_MODULE = "places"

# Why a request was refused: its response code details, for local_replies.py and limits.py.
NO_PLACE, NO_PLACE_FOR_CALLER = "concurrency", "concurrency_per_caller"

# Where Envoy's messages find the numbers.
_OF_ALL, _OF_EACH = "concurrent_requests", "concurrent_requests_per_caller"
OF_ALL_FORMAT, OF_EACH_FORMAT = (f"%METADATA(VIRTUAL_HOST:{LIMITS_METADATA}:{name})%" for name in (_OF_ALL, _OF_EACH))

# What the module may call and what calls it, beside what any module has.
_CAPABILITIES = (
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_set_shared_data",
    "proxy_get_buffer_bytes",
    "proxy_send_local_response",
    "proxy_on_memory_allocate",
    "proxy_on_vm_start",
    "proxy_on_request_headers",
    "proxy_on_done",
)


def places_filter() -> Any:
    """Does what a route says."""
    return empty_place(_FILTER)


def places_config(limits: Limits, gateway: Gateway) -> Mapping[str, Any]:
    """What an endpoint's routes say to the filter."""
    return {_FILTER: _counting(gateway.token)} if limits.has_concurrency else without(_FILTER)


def places_metadata(endpoint: str, limits: Limits, access: Access) -> Mapping[str, str]:
    """What the metadata of an endpoint's routes tells the module (in the format of places.wat), and messages quote."""
    if not limits.has_concurrency:
        return {}
    of_all, of_each = limits.concurrent_requests or 0, limits.concurrent_requests_per_caller or 0
    caller = "\0".join(_caller(endpoint, access)) if of_each else ""
    rule = f"{of_all:07}{of_each:07}{endpoint}|{caller}"
    return {_MODULE: rule, _OF_ALL: str(of_all), _OF_EACH: str(of_each)}


def _caller(endpoint: str, access: Access) -> tuple[str, ...]:
    """By which attribute of a request its caller is known
    (https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/advanced/attributes)."""
    match access:
        case KeyHolders():
            return "request", "headers", ADMITTED_HEADER
        case CertificateHolders():
            return "connection", "sha256_peer_certificate_digest"
        case TokenHolders():
            return "metadata", "filter_metadata", *subject_path(endpoint)
        case _:
            raise ValueError("callers that nobody tells apart have no limits of their own")


@cache
def _counting(token: str) -> Any:
    """The same for every endpoint, so that Envoy has one such module a worker."""
    secret = hashlib.sha256(f"{_FILTER}/{token}".encode()).digest()[:16]
    code = files("router.xds").joinpath(f"{_MODULE}.wasm").read_bytes()
    vm = wasm_pb2.VmConfig(
        vm_id=_FILTER,
        runtime="envoy.wasm.runtime.v8",
        code=base_pb2.AsyncDataSource(local=base_pb2.DataSource(inline_bytes=code)),
        configuration=packed(BytesValue(value=secret)),
    )
    none_of_its_own = wasm_pb2.SanitizationConfig()
    plugin = wasm_pb2.PluginConfig(
        name=_MODULE,
        vm_config=vm,
        failure_policy=wasm_pb2.FAIL_RELOAD,
        capability_restriction_config=wasm_pb2.CapabilityRestrictionConfig(
            allowed_capabilities=dict.fromkeys(_CAPABILITIES, none_of_its_own)
        ),
    )
    return running("envoy.filters.http.wasm", filter_wasm_pb2.Wasm(config=plugin))
