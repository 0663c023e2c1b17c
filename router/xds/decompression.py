"""Compressed requests to a Triton: gunzipped before anything looks into them.

Replicas of ours do that themselves; nobody could check what a Triton is sent, so Envoy does it for endpoints that have
one. The filter stands before the buffer, whose limit therefore holds for what comes out of it: a bomb is answered 413
when it has grown to the limit. Envoy knows gzip and not deflate, which is refused (triton.lua).

For requests whose path names the endpoint (`/v2/models/<endpoint>/infer`): whether the filter runs is decided before
another path (`/endpoints/<endpoint>/score`) is translated.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.compression.gzip.decompressor.v3 import gzip_pb2
from envoy.extensions.filters.http.decompressor.v3 import decompressor_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from router.xds.resources import packed

DECOMPRESSION_FILTER = "crossfade.decompression"
# All that gzip can do: tensors of zeros are no attack.
_MAX_RATIO = 1032
_WINDOW_BITS = 15

_Decompressor = decompressor_pb2.Decompressor


def decompression_filter() -> Any:
    """Runs where a route says so."""
    gzip = gzip_pb2.Gzip(window_bits=UInt32Value(value=_WINDOW_BITS), max_inflate_ratio=UInt32Value(value=_MAX_RATIO))
    nothing = base_pb2.RuntimeFeatureFlag(default_value=BoolValue(value=False), runtime_key="crossfade.never_set")
    config = _Decompressor(
        decompressor_library=extension_pb2.TypedExtensionConfig(name="gzip", typed_config=packed(gzip)),
        request_direction_config=_Decompressor.RequestDirectionConfig(advertise_accept_encoding=BoolValue(value=False)),
        response_direction_config=_Decompressor.ResponseDirectionConfig(
            common_config=_Decompressor.CommonDirectionConfig(enabled=nothing)
        ),
    )
    return hcm_pb2.HttpFilter(name=DECOMPRESSION_FILTER, typed_config=packed(config), disabled=True)


def decompressing() -> dict[str, Any]:
    """What a virtual host says to have its requests decompressed."""
    return {DECOMPRESSION_FILTER: packed(route_components_pb2.FilterConfig(config=AnyMessage()))}
