"""Local replies: how Envoy says its own errors, as JSON over HTTP and as a status over gRPC.

gRPC takes the status from a `grpc-status` header that a mapper adds, and the message from the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from router.xds.clients import REFUSED_ADDRESS
from router.xds.gateway import MAX_BODY_FORMAT, MODEL_HEADER
from router.xds.places import NO_PLACE, NO_PLACE_FOR_CALLER, OF_ALL_FORMAT, OF_EACH_FORMAT
from router.xds.resources import packed
from router.xds.tokens import CLAIMS_TEXT, REFUSALS, was_refused, was_verified
from router.xds.translation import NAMED_PREFIXES, stream_refusal

_NOT_READY = "the model is not ready: no replica can answer now"
_NOT_ADMITTED = "access denied: this needs a client's certificate with a name that is allowed here"
_WRONG_ADDRESS = "access denied: requests from this address are not taken here"
_OVERLOADED = "overloaded: too many requests are under way, try again later"
_TOO_OFTEN = "too many requests: a limit of this endpoint is reached, of all its callers or of this one"
_NO_PLACE = f"too many requests are under way: this endpoint takes {OF_ALL_FORMAT} at a time, try again later"
_NO_PLACE_FOR_CALLER = (
    f"too many requests are under way: this endpoint takes {OF_EACH_FORMAT} of each caller at a time, try again later"
)
_TOO_LARGE_FOR_ALL = "the request body is larger than any endpoint accepts"
_TIMED_OUT = "the deadline passed before the model answered"


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which of Envoy's own replies is meant, and how it is said. Empty: keep Envoy's status or words.

    `flags`: response flags of Envoy's access log, `details`: its response code details, `status`: the HTTP status it
    would answer. `noted`: a matcher of what a filter noted in the request's metadata. `is_named`: a call whose endpoint
    is not known yet (`translation.NAMED_PREFIXES`).
    """

    grpc_status: int
    flags: tuple[str, ...] = ()
    details: str = ""
    status: int = 0
    http_status: int = 0
    text: str = ""
    retry_after_s: int = 0  # 0: not said
    grpc_header: str = ""  # only gRPC calls that have this header
    noted: Any = None
    is_named: bool = False
    challenge: str = ""  # the header www-authenticate


# The first rule that fits counts. Flags: UO overflow of a circuit breaker, OM overload manager, UH no healthy host,
# UF cannot connect, NC no cluster, UC and UR connection ended, NR no route, UT and SI timeouts, DT duration.
_RULES = (
    _Rule(7, details=REFUSED_ADDRESS, text=_WRONG_ADDRESS),
    *(
        _Rule(
            16,
            http_status=401,
            text=refusal.text,
            noted=was_refused(refusal),
            challenge=f'Bearer realm="crossfade"{refusal.challenge}',
        )
        for refusal in REFUSALS
    ),
    _Rule(7, status=403, text=CLAIMS_TEXT, noted=was_verified()),
    _Rule(8, details=NO_PLACE, text=_NO_PLACE, retry_after_s=1),
    _Rule(8, details=NO_PLACE_FOR_CALLER, text=_NO_PLACE_FOR_CALLER, retry_after_s=1),
    _Rule(8, flags=("UO", "OM"), http_status=429, text=_OVERLOADED, retry_after_s=1),
    _Rule(4, flags=("UT", "DT"), http_status=504, text=_TIMED_OUT),
    _Rule(14, flags=("UH", "UF", "NC"), http_status=503, text=_NOT_READY),
    _Rule(14, flags=("UC", "UR"), http_status=503, text="the replica ended before it answered"),
    _Rule(5, flags=("NR",), text=f"unknown model '%REQ({MODEL_HEADER})%'", grpc_header=MODEL_HEADER),
    _Rule(12, flags=("NR",), text="unknown model or path '%PATH(NQ:PATH)%'"),
    _Rule(5, status=404, grpc_header=MODEL_HEADER),
    _Rule(12, status=404),
    *(_Rule(status, noted=noted, text=text) for status in (3, 8, 12) for noted, text in [stream_refusal(status)]),
    _Rule(3, status=400),
    _Rule(16, status=401),
    _Rule(7, status=403, text=_NOT_ADMITTED),
    _Rule(4, status=408, text="the request did not arrive in time"),
    _Rule(12, status=415),
    # A script says itself how large what can be.
    _Rule(8, status=413, details="lua_response", text="%LOCAL_REPLY_BODY%"),
    _Rule(8, status=413, is_named=True, text=_TOO_LARGE_FOR_ALL),
    _Rule(8, status=413, text=f"the request body is larger than the {MAX_BODY_FORMAT} bytes that the endpoint accepts"),
    _Rule(8, status=429, text=_TOO_OFTEN),  # which says itself when to come again (limits.py)
    _Rule(8, status=431),
    # What Envoy says to HTTP/1.1 when its memory runs out (bootstrap.py). It has no flag, and is the only such reply.
    _Rule(8, status=500, http_status=429, text=_OVERLOADED, retry_after_s=1),
    # RFC 9112 §6.1 has 501 for it, but what begins with 5 wakes operators, and this is the caller's doing.
    _Rule(3, status=501, http_status=400, text="this transfer coding is not supported: use chunked"),
    _Rule(14, status=503),
    _Rule(4, status=504, text=_TIMED_OUT),
)


def local_reply_config() -> Any:
    mappers = []
    for rule in _RULES:
        mappers.append(_grpc_mapper(rule))
        if not rule.grpc_header and (rule.http_status or rule.text):
            mappers.append(_http_mapper(rule))
    mappers.append(hcm_pb2.ResponseMapper(filter=_is_grpc(), body_format_override=_plain("%LOCAL_REPLY_BODY%")))
    return hcm_pb2.LocalReplyConfig(mappers=mappers, body_format=_json_error("%LOCAL_REPLY_BODY%"))


def _grpc_mapper(rule: _Rule) -> Any:
    conditions = [_is_grpc(), _fits(rule)]
    if rule.grpc_header:
        conditions.append(_header(route_components_pb2.HeaderMatcher(name=rule.grpc_header, present_match=True)))
    return hcm_pb2.ResponseMapper(
        filter=accesslog_pb2.AccessLogFilter(and_filter=accesslog_pb2.AndFilter(filters=conditions)),
        body_format_override=_plain(rule.text or "%LOCAL_REPLY_BODY%"),
        headers_to_add=[_overwritten("grpc-status", str(rule.grpc_status)), *_more_headers(rule)],
    )


def _http_mapper(rule: _Rule) -> Any:
    return hcm_pb2.ResponseMapper(
        filter=_fits(rule),
        status_code=UInt32Value(value=rule.http_status) if rule.http_status else None,
        body_format_override=_json_error(rule.text or "%LOCAL_REPLY_BODY%"),
        headers_to_add=_more_headers(rule),
    )


def _more_headers(rule: _Rule) -> list[Any]:
    """What the reply says besides."""
    retry_after = [_overwritten("retry-after", str(rule.retry_after_s))] if rule.retry_after_s else []
    return retry_after + ([_overwritten("www-authenticate", rule.challenge)] if rule.challenge else [])


def _overwritten(name: str, value: str) -> Any:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _fits(rule: _Rule) -> Any:
    """All that the rule asks for."""
    conditions = []
    if rule.flags:
        flags = accesslog_pb2.ResponseFlagFilter(flags=rule.flags)
        conditions.append(accesslog_pb2.AccessLogFilter(response_flag_filter=flags))
    if rule.status:
        conditions.append(_has_status(rule.status))
    if rule.noted is not None:
        # What is not there fits by default.
        noted = accesslog_pb2.MetadataFilter(matcher=rule.noted, match_if_key_not_found=BoolValue(value=False))
        conditions.append(accesslog_pb2.AccessLogFilter(metadata_filter=noted))
    if rule.is_named:
        begins = [_path_begins(beginning) for beginning in NAMED_PREFIXES]
        conditions.append(accesslog_pb2.AccessLogFilter(or_filter=accesslog_pb2.OrFilter(filters=begins)))
    if rule.details:
        expression = cel_pb2.ExpressionFilter(expression=f"response.code_details == '{rule.details}'")
        extension = accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=packed(expression)
        )
        conditions.append(accesslog_pb2.AccessLogFilter(extension_filter=extension))
    if len(conditions) == 1:
        return conditions[0]
    return accesslog_pb2.AccessLogFilter(and_filter=accesslog_pb2.AndFilter(filters=conditions))


def _has_status(status: int) -> Any:
    comparison = accesslog_pb2.ComparisonFilter(
        value=base_pb2.RuntimeUInt32(default_value=status, runtime_key="crossfade.never_set")
    )
    return accesslog_pb2.AccessLogFilter(
        status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=comparison)  # EQ is the default operator
    )


def _is_grpc() -> Any:
    return _header(
        route_components_pb2.HeaderMatcher(
            name="content-type", string_match=string_pb2.StringMatcher(prefix="application/grpc")
        )
    )


def _path_begins(beginning: str) -> Any:
    matched = string_pb2.StringMatcher(prefix=beginning)
    return _header(route_components_pb2.HeaderMatcher(name=":path", string_match=matched))


def _header(matcher: Any) -> Any:
    return accesslog_pb2.AccessLogFilter(header_filter=accesslog_pb2.HeaderFilter(header=matcher))


def _plain(text: str) -> Any:
    return substitution_format_string_pb2.SubstitutionFormatString(
        text_format_source=base_pb2.DataSource(inline_string=text)
    )


def _json_error(text: str) -> Any:
    error = Struct()
    error.update({"error": text})
    return substitution_format_string_pb2.SubstitutionFormatString(json_format=error)
