"""Attempts: how Envoy counts what each deployment was asked and did, and how long it took.

A request that is retried, or shielded, is several attempts. The router logs each of them when it ends (`upstream_log`),
and the log is no file: `envoy.access_loggers.stats` turns each entry into a counter, with what happened as its tags, and
into a histogram of microseconds. So an attempt is counted once, with everything that the verdict on it needs, also when
the client never sees it; Envoy's own statistics of a cluster know no gRPC status, mix what the client was told with what
the replica did, and time in whole milliseconds. Mirrored requests have a router of their own and are not counted.

The counters are pushed as differences (telemetry sink in `telemetry_sink`), so an Envoy that starts again needs no care.
Counters of deployments that nobody asks are evicted, so that idle ones cost nothing.
"""

from __future__ import annotations

from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.access_loggers.stats.v3 import stats_pb2
from google.protobuf.wrappers_pb2 import UInt64Value

from router.xds.gateway import RETRY_HEADER
from router.xds.resources import packed

STAT_PREFIX = "attempts"
COUNT, DURATION = "count", "duration"

# The tags. By which route's cluster it went, who was asked, and what came of it.
VIA, HOST, STATUS, GRPC_STATUS, FLAGS, NOT_BEGUN = "via", "host", "status", "grpc", "flags", "not_begun"

_WHO = {VIA: "%UPSTREAM_CLUSTER%", HOST: "%UPSTREAM_HOST_NAME%"}
_WHAT = {
    STATUS: "%RESPONSE_CODE%",
    GRPC_STATUS: "%GRPC_STATUS_NUMBER%",
    FLAGS: "%RESPONSE_FLAGS%",
    NOT_BEGUN: f"%RESP({RETRY_HEADER})%",
}


def attempt_logs() -> list[Any]:
    """For the router's `upstream_log`."""
    count = stats_pb2.Config.Counter(stat=_stat(COUNT, _WHO | _WHAT), value_fixed=UInt64Value(value=1))
    duration = stats_pb2.Config.Histogram(
        stat=_stat(DURATION, _WHO),
        unit=stats_pb2.Config.Histogram.Microseconds,
        value_format="%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)%",
    )
    return [
        _log(stats_pb2.Config(stat_prefix=STAT_PREFIX, counters=[count])),
        _log(stats_pb2.Config(stat_prefix=STAT_PREFIX, histograms=[duration]), _succeeded()),
    ]


def _stat(name: str, tags: dict[str, str]) -> Any:
    stat = stats_pb2.Config.Stat(name=name)
    stat.tags.extend(stats_pb2.Config.Tag(name=tag, value_format=text) for tag, text in tags.items())
    return stat


def _log(config: Any, condition: Any = None) -> Any:
    return accesslog_pb2.AccessLog(name="envoy.access_loggers.stats", filter=condition, typed_config=packed(config))


def _succeeded() -> Any:
    """2xx: whoever fails fast is not fast."""
    kind = accesslog_pb2.ComparisonFilter
    return accesslog_pb2.AccessLogFilter(
        and_filter=accesslog_pb2.AndFilter(filters=[_status(kind.GE, 200), _status(kind.LE, 299)])
    )


def _status(operator: Any, status: int) -> Any:
    comparison = accesslog_pb2.ComparisonFilter(
        op=operator, value=base_pb2.RuntimeUInt32(default_value=status, runtime_key="crossfade.never_set")
    )
    return accesslog_pb2.AccessLogFilter(status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=comparison))
