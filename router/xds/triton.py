"""Triton: how Envoy talks to Triton Inference Servers that run elsewhere, with nobody between.

A Triton has a port for each protocol, so such a deployment has two clusters: HTTP/1.1, and HTTP/2 for gRPC.

Between the router and each Triton stands a chain of upstream filters, the heart of which is triton.lua. It runs after
the host of an attempt is chosen, so the same request can go to a Triton in one attempt and to a replica of ours in the
next (a shield), each in its own words. In a deployment's own cluster the script knows what it calls the model
(`own_filters`); in a shield's, the host's metadata say whether it is a Triton, and which (`shield_filters`). The script

- puts Triton's name and version of the model into the path, or into the gRPC message
- puts the endpoint's name and the deployment's version into the reply, unless they are Triton's own
- does both for every message of a stream
- decompresses what a client compressed, since nobody else before Triton would look into it
- refuses what crashes Triton or what Triton would misread; a client's mistake is never its failure
- lets through what scores or describes the model, and nothing else

An internal listener instead would have kept all that out of the clusters, for one more trip through Envoy.

Measured: benchmarks/README.md, with what of it is the script's (14 µs of 76 for a JSON request) and what the machine's.
Each deployment costs Envoy 1 MB: a Lua machine for each of its two clusters and each worker.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import string_pb2
from envoy.type.v3 import http_pb2
from google.protobuf.struct_pb2 import Struct
from tritonclient.grpc import service_pb2

from router.domain.routing import Upstream
from router.domain.tls import Secret
from router.domain.triton_token import TritonToken
from router.xds.gateway import (
    CODING_HEADER,
    RETRY_HEADER,
    ROUTED_PATH_HEADER,
    SERVICE,
    STREAM_HEADER,
    TOKEN_HEADER,
    UPSTREAM_HEADER,
    Gateway,
)
from router.xds.resources import packed
from router.xds.scripts import READING, inline, script

_METADATA = "crossfade.triton"
_TOKEN_METADATA = "crossfade.triton.token"
_SERVED = f"=%UPSTREAM_METADATA({_METADATA}:served)%"

# In this order: each leans on those before it.
_SCRIPTS = (*READING, "triton_checks", "triton_streams", "triton")

_GRPC_ONLY = "this deployment answers gRPC alone: its Tritons have TLS, which Triton's HTTP port has not"


def own_filters(endpoint: str, upstream: Upstream, gateway: Gateway, *, is_grpc_port: bool) -> list[Any]:
    """For a cluster of one deployment: all that there is to know of its hosts is in the script."""
    model, number, version, limit, only = _facts(upstream)
    facts = {"model": model, "number": number, "version": version, "only": only, "endpoint": endpoint}
    flags = {"is_grpc": is_grpc_port, "is_same": (model, number) == (endpoint, version)}
    table = [f'{name} = "{text}"' for name, text in facts.items()]
    table += [f"{name} = {str(flag).lower()}" for name, flag in flags.items()]
    return [
        *token_filters(upstream, is_grpc_port=is_grpc_port),
        _lua(gateway, f"{{ limit = {limit}, {', '.join(table)} }}"),
        _codec(),
    ]


def token_filters(upstream: Upstream, *, is_grpc_port: bool) -> list[Any]:
    """Show a restricted Triton what it wants to see.

    That is in the metadata of its host: so no other host can be shown it, and a new one leaves clusters and connections
    alone. (Envoy's own filter for credentials shows them to whomever an attempt goes to, and to no health check.)
    """
    token = upstream.token
    if token is None:
        return []
    header = token.header_of(is_grpc=is_grpc_port)
    shown = [mutation_rules_pb2.HeaderMutation(remove=header), _set(header, _in_metadata(token))]
    return [_mutation("crossfade.token", request=shown)]


def _in_metadata(token: TritonToken) -> str:
    return f"%UPSTREAM_METADATA({_TOKEN_METADATA}:{token.header})%"


def shield_filters(gateway: Gateway) -> list[Any]:
    """For a cluster whose hosts can be Tritons: what each is asked for is in its metadata."""
    asked = f"{_SERVED}|%REQ({ROUTED_PATH_HEADER})%|%REQ(:path)%"
    return [
        _mutation("crossfade.served", request=[_set(UPSTREAM_HEADER, _SERVED)]),
        _lua(gateway, "nil"),
        _mutation("crossfade.answered", response=[_set(UPSTREAM_HEADER, asked)]),
        _codec(),
    ]


def withheld_headers() -> list[Any]:
    """Whom Triton would obey (its restricted APIs), which nobody else reads."""
    mutation = mutation_rules_pb2.HeaderMutation
    matcher = string_pb2.StringMatcher(prefix="triton-", ignore_case=True)
    return [mutation(remove_on_match=mutation.RemoveOnMatch(key_matcher=matcher))]


def _lua(gateway: Gateway, own: str) -> Any:
    source = inline(_script(gateway.token).replace("@OWN@", own))
    return hcm_pb2.HttpFilter(name="crossfade.triton", typed_config=packed(lua_pb2.Lua(default_source_code=source)))


def _codec() -> Any:
    codec = upstream_codec_pb2.UpstreamCodec()
    return hcm_pb2.HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=packed(codec))


def _facts(upstream: Upstream) -> tuple[str, str, str, str, str]:
    """What it is asked for, how that is called in front, how large a message may be, and what else it must be.

    All of narrow alphabets, in which there is neither a bar nor a quote.
    """
    assert upstream.triton is not None
    number, only = str(upstream.triton.version or ""), "grpc" if upstream.is_grpc_only else ""
    return upstream.triton.model, number, upstream.model_version, str(upstream.max_request_bytes), only


def served_metadata(upstream: Upstream, shown: Secret | None) -> Any:
    """By which a host is known as a Triton: what it is asked for, how that is called in front, and its token."""
    served, token = Struct(), Struct()
    served.update({"served": "|".join(_facts(upstream))})
    if upstream.token is None or shown is None:
        return base_pb2.Metadata(filter_metadata={_METADATA: served})
    token.update({upstream.token.header: shown.value.decode()})
    return base_pb2.Metadata(filter_metadata={_METADATA: served, _TOKEN_METADATA: token})


def readiness_check(upstream: Upstream) -> Any:
    """The model, not the server: a Triton can live without it."""
    triton = upstream.triton
    assert triton is not None
    if not upstream.is_grpc_only:
        return health_check_pb2.HealthCheck.HttpHealthCheck(
            host="triton",
            path=f"{triton.path}/ready",
            codec_client_type=http_pb2.CodecClientType.HTTP1,
            request_headers_to_add=_shown_to_check(upstream),
        )
    payload = health_check_pb2.HealthCheck.Payload
    question = service_pb2.ModelReadyRequest(name=triton.model, version=str(triton.version or ""))
    answer = service_pb2.ModelReadyResponse(ready=True)
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return health_check_pb2.HealthCheck.HttpHealthCheck(
        host="triton",
        path=f"/{SERVICE}/ModelReady",
        method=base_pb2.RequestMethod.POST,
        codec_client_type=http_pb2.CodecClientType.HTTP2,
        request_headers_to_add=[*(_header(*header) for header in headers.items()), *_shown_to_check(upstream)],
        send=payload(text=_framed(question).hex()),
        receive=[payload(text=_framed(answer).hex())],
    )


def _shown_to_check(upstream: Upstream) -> list[Any]:
    token = upstream.token
    return [_header(token.header_of(is_grpc=upstream.is_grpc_only), _in_metadata(token))] if token else []


def _framed(message: Any) -> bytes:
    """As gRPC sends it: not compressed, and its length."""
    body: bytes = message.SerializeToString(deterministic=True)
    return b"\0" + len(body).to_bytes(4, "big") + body


def _mutation(name: str, *, request: list[Any] | None = None, response: list[Any] | None = None) -> Any:
    mutations = header_mutation_pb2.Mutations(request_mutations=request, response_mutations=response)
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(header_mutation_pb2.HeaderMutation(mutations=mutations)))


def _set(header: str, value: str) -> Any:
    return mutation_rules_pb2.HeaderMutation(append=_header(header, value))


def _header(name: str, value: str) -> Any:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


@cache
def _script(token: str) -> str:
    marks = {
        "@CODING@": CODING_HEADER,
        "@GRPC_ONLY@": _GRPC_ONLY,
        "@METADATA@": _METADATA,
        "@RETRY_HEADER@": RETRY_HEADER,
        "@ROUTED_PATH@": ROUTED_PATH_HEADER,
        "@SERVICE@": SERVICE,
        "@STREAM@": STREAM_HEADER,
        "@TOKEN@": token,
        "@TOKEN_HEADER@": TOKEN_HEADER,
        "@UPSTREAM@": UPSTREAM_HEADER,
    }
    return script(*_SCRIPTS, marks=marks)
