"""Limits in Envoy: how often an endpoint may be asked, by all callers and by each. places.py has how much may be under
way.

The rate is Envoy's own filter with a token bucket, which all workers of a process share; several Envoys have a bucket
each. It stands behind the gate of access.py, where a call has found its endpoint and is known to be let in: strangers
take nothing from those who may call. Whoever passes it is counted once, however often Envoy then tries or copies the
request: copies come by another listener, and retries and shields are behind. The buckets come with the endpoint's
routes and begin full when those change.

A refusal is the limit's and not the deployment's: none was asked. One by the circuit breaker of a deployment's cluster
(clusters.py) is the deployment's, which can hold no more.

`python -m benchmarks.hostile --only limits` measures what a rate costs a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.stats.v3 import stats_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from envoy.type.v3 import http_status_pb2, percent_pb2, token_bucket_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value, UInt64Value

from router.domain.callers import Access, TokenHolders
from router.domain.limits import Limits, Rate
from router.xds.gateway import ADMITTED_HEADER, LIMITS_METADATA
from router.xds.hot_path import without
from router.xds.places import NO_PLACE, NO_PLACE_FOR_CALLER
from router.xds.resources import packed
from router.xds.tokens import subject_of

_FILTER = "crossfade.rate"
_FILTER_STATS = "rate"  # nobody keeps them
_KEY, _CERTIFICATE, _SUBJECT = "key", "certificate", "subject"

# Callers whose buckets are remembered, the latest ones, per endpoint. Keys are two; tokens and certificates are made by
# whoever the endpoint trusts.
_MAX_CALLERS = 10_000
_PERIOD_S = 1000  # buckets fill all the time, not once a period: it makes a thousandth of a request a whole number
_ENDLESS = 2**32 - 1

# In Envoy's statistics: what was refused.
STAT_PREFIX = "limits"


def rate_filter() -> Any:
    """Does what a route says."""
    return hcm_pb2.HttpFilter(
        name=_FILTER, typed_config=packed(local_rate_limit_pb2.LocalRateLimit(stat_prefix=_FILTER_STATS))
    )


def rate_config(endpoint: str, limits: Limits, access: Access) -> Mapping[str, Any]:
    """What an endpoint's routes say to the filter."""
    of_each = limits.per_caller.rate if limits.per_caller else None
    rates = [rate for rate in (limits.rate, of_each) if rate is not None]
    if not rates:
        return without(_FILTER)
    always = base_pb2.RuntimeFractionalPercent(default_value=percent_pb2.FractionalPercent(numerator=100))
    config = local_rate_limit_pb2.LocalRateLimit(
        stat_prefix=_FILTER_STATS,
        status=http_status_pb2.HttpStatus(code=http_status_pb2.TooManyRequests),
        token_bucket=_bucket(limits.rate) if limits.rate else _endless_bucket(),
        # A caller's own bucket does not stand for that of all.
        always_consume_default_token_bucket=BoolValue(value=True),
        filter_enabled=always,
        filter_enforced=always,
        response_headers_to_add=[_retry_after(max(rate.retry_after_s for rate in rates))],
    )
    if of_each is not None:
        callers = {_KEY: _by_key(), _CERTIFICATE: _by_certificate()}
        if isinstance(access, TokenHolders):
            callers = {_SUBJECT: _by_subject(endpoint)}
        config.rate_limits.extend(rc.RateLimit(actions=[action]) for action in callers.values())
        config.descriptors.extend(_each(name, of_each) for name in callers)
        config.max_dynamic_descriptors.value = _MAX_CALLERS
    return {_FILTER: packed(config)}


def refusal_logs() -> list[Any]:
    """For the connection manager: refused requests, counted by endpoint and by the limit that they met."""
    return [
        _refused(_has_flag("RL"), "rate"),
        _refused(_had_no_place(), "%RESPONSE_CODE_DETAILS%"),
        _refused(_has_flag("UO"), "capacity"),
    ]


def limits_metadata(**values: str) -> Any:
    """What Envoy's messages and statistics quote."""
    struct = Struct()
    struct.update(values)
    return base_pb2.Metadata(filter_metadata={LIMITS_METADATA: struct})


def _refused(condition: Any, limit: str) -> Any:
    tags = {"endpoint": f"%METADATA(VIRTUAL_HOST:{LIMITS_METADATA}:endpoint)%", "limit": limit}
    refused = stats_pb2.Config.Stat(
        name="refused", tags=[stats_pb2.Config.Tag(name=name, value_format=text) for name, text in tags.items()]
    )
    one = stats_pb2.Config.Counter(stat=refused, value_fixed=UInt64Value(value=1))
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stats",
        filter=condition,
        typed_config=packed(stats_pb2.Config(stat_prefix=STAT_PREFIX, counters=[one])),
    )


def _has_flag(flag: str) -> Any:
    """Of the response, in Envoy's words."""
    return accesslog_pb2.AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=[flag]))


def _had_no_place() -> Any:
    """The details are compared for replies alone that say that there is too much: it takes its time."""
    refused = accesslog_pb2.ComparisonFilter(
        value=base_pb2.RuntimeUInt32(default_value=429, runtime_key="crossfade.never_set")
    )
    exhausted = accesslog_pb2.GrpcStatusFilter(statuses=[accesslog_pb2.GrpcStatusFilter.RESOURCE_EXHAUSTED])
    is_refusal = accesslog_pb2.OrFilter(
        filters=[
            accesslog_pb2.AccessLogFilter(
                status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=refused)  # EQ is the default operator
            ),
            accesslog_pb2.AccessLogFilter(grpc_status_filter=exhausted),
        ]
    )
    expression = cel_pb2.ExpressionFilter(
        expression=f"response.code_details in {[str(details) for details in (NO_PLACE, NO_PLACE_FOR_CALLER)]}"
    )
    has_details = accesslog_pb2.ExtensionFilter(
        name="envoy.access_loggers.extension_filters.cel", typed_config=packed(expression)
    )
    both = [
        accesslog_pb2.AccessLogFilter(or_filter=is_refusal),
        accesslog_pb2.AccessLogFilter(extension_filter=has_details),
    ]
    return accesslog_pb2.AccessLogFilter(and_filter=accesslog_pb2.AndFilter(filters=both))


def _bucket(rate: Rate) -> Any:
    return token_bucket_pb2.TokenBucket(
        max_tokens=rate.most_at_once,
        tokens_per_fill=UInt32Value(value=max(1, round(rate.requests_per_second * _PERIOD_S))),
        fill_interval=Duration(seconds=_PERIOD_S),
    )


def _endless_bucket() -> Any:
    return token_bucket_pb2.TokenBucket(
        max_tokens=_ENDLESS, tokens_per_fill=UInt32Value(value=_ENDLESS), fill_interval=Duration(seconds=_PERIOD_S)
    )


def _each(name: str, rate: Rate) -> Any:
    """A bucket for every value: that is what an empty one means."""
    entry = ratelimit_pb2.RateLimitDescriptor.Entry(key=name)
    return ratelimit_pb2.LocalRateLimitDescriptor(entries=[entry], token_bucket=_bucket(rate))


def _by_key() -> Any:
    """By what access.py noted of who was let in."""
    action = rc.RateLimit.Action
    return action(
        request_headers=action.RequestHeaders(header_name=ADMITTED_HEADER, descriptor_key=_KEY, skip_if_absent=True)
    )


def _by_subject(endpoint: str) -> Any:
    """Whom the token speaks of. Tokens that do not say so count as one caller."""
    action = rc.RateLimit.Action
    return action(
        metadata=action.MetaData(descriptor_key=_SUBJECT, metadata_key=subject_of(endpoint), default_value="nobody")
    )


def _by_certificate() -> Any:
    expression = expr_pb2.Descriptor(
        descriptor_key=_CERTIFICATE, text="connection.sha256_peer_certificate_digest", skip_if_error=True
    )
    action = rc.RateLimit.Action()
    action.extension.name = "envoy.rate_limit_descriptors.expr"
    action.extension.typed_config.CopyFrom(packed(expression))
    return action


def _retry_after(seconds: int) -> Any:
    return base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key="retry-after", value=str(seconds)))
