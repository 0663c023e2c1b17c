"""Sequences of requests: those with the same `sequence_id` reach the same deployment, and there the same Triton.

For deployments that say that they have them: a Triton keeps a sequence's state to itself, and refuses what belongs to a
sequence that it does not know. The id stands in the body, so a script looks for it, behind the translation, and notes
it in a header that is hashed. Such a request is never sent twice, not even to a stable deployment: nobody but that one
Triton could answer it. A stream is one connection to one Triton, and needs none of this.
"""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.struct_pb2 import Struct

from router.domain.routing import Upstream
from router.xds.gateway import NO_RETRY_HEADER, SEQUENCE_HEADER
from router.xds.hot_path import without
from router.xds.resources import packed
from router.xds.scripts import READING, inline, script

_FILTER = "crossfade.sequence"
_SCRIPT_NAME = "sequence"
_LIMIT = "limit"  # bytes that the largest of the endpoint's deployments takes


def sequence_filter() -> Any:
    """Runs where a route says so."""
    marks = {"@LIMIT@": _LIMIT, "@NO_RETRY@": NO_RETRY_HEADER, "@SEQUENCE@": SEQUENCE_HEADER}
    text = script(*READING, "sequences", marks=marks)
    config = lua_pb2.Lua(source_codes={_SCRIPT_NAME: inline(text)})
    return hcm_pb2.HttpFilter(name=_FILTER, typed_config=packed(config))


def sequence_config(upstreams: tuple[Upstream, ...]) -> dict[str, Any]:
    """What a virtual host says."""
    if not any(upstream.keeps_sequences for upstream in upstreams):
        return without(_FILTER)
    context = Struct()
    context.update({_LIMIT: max(upstream.max_request_bytes for upstream in upstreams)})
    return {_FILTER: packed(lua_pb2.LuaPerRoute(name=_SCRIPT_NAME, filter_context=context))}
