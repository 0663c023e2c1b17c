"""Reports: what Envoys push about attempts (attempts.py), received, read and judged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import grpc

from router.domain.measurement import Latencies, Totals
from router.telemetry import Increment
from router.xds.attempts import BOUNDS_US, COUNT, DURATION, THRESHOLDS_US, TIMED_OUT, Tag
from router.xds.names import cluster_of_stat, deployment_of_cluster
from router.xds.otlp import EXPORT_METHOD, EXPORT_SERVICE, export_request
from router.xds.retries import FAILED_GRPC_STATUSES, FAILED_STATUSES
from router.xds.routes import LIVE_ROUTE, MIRROR_ROUTE

log = logging.getLogger(__name__)

BOUNDS_MS = tuple(bound / 1000 for bound in BOUNDS_US)

_NO_FLAGS = "-"
_TIME_WAS_OVER = "response_timeout"  # and not upstream_per_try_timeout, which the attempt itself tells
_FAILED_GRPC_STATUSES = frozenset(map(str, FAILED_GRPC_STATUSES))

_Tags = dict[str, str]


def reports_service(take: Callable[[Iterable[Increment]], None]) -> Any:
    """The gRPC service that Envoys push to; `take` gets each report as it comes."""

    async def export(message: Any, _context: Any) -> bytes:
        take(list(increments(message)))
        return b""  # an empty ExportMetricsServiceResponse: all is well

    handler = grpc.unary_unary_rpc_method_handler(export, request_deserializer=export_request().FromString)
    return grpc.method_handlers_generic_handler(EXPORT_SERVICE, {EXPORT_METHOD: handler})


def increments(message: Any) -> Iterator[Increment]:
    """From an ExportMetricsServiceRequest. Of attempts that somebody asked for by name, nothing."""
    for resource in message.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in (*metric.sum.data_points, *metric.histogram.data_points):
                    tags = {attribute.key: attribute.value.string_value for attribute in point.attributes}
                    asked = _asked(tags)
                    totals = _totals(metric.name, tags, point) if asked else None
                    if asked and totals:
                        yield Increment(asked.endpoint, asked.deployment, totals)


class _Asked(NamedTuple):
    endpoint: str
    deployment: str


def _asked(tags: _Tags) -> _Asked | None:
    """Whose attempt it was. None when it was neither by weight nor a copy, or what stable did in the candidate's place.

    That would be no fair sample of either: only requests that had failed already.
    """
    if tags.get(Tag.ROUTE) not in (LIVE_ROUTE, MIRROR_ROUTE):
        return None
    endpoint, deployment = deployment_of_cluster(cluster_of_stat(tags.get(Tag.CLUSTER, "")))
    if tags.get(Tag.HOST) not in (deployment, ""):
        return None
    return _Asked(endpoint, deployment)


def _totals(metric: str, tags: _Tags, point: Any) -> Totals | None:
    if metric == DURATION:
        return _durations(point)
    if metric == TIMED_OUT and tags.get(Tag.DETAILS) == _TIME_WAS_OVER:
        return Totals(point.as_int, point.as_int)
    if metric == COUNT and not _is_void(tags):
        return Totals(point.as_int, point.as_int if _is_failure(tags) else 0)
    return None


def _is_void(tags: _Tags) -> bool:
    """The attempt says nothing about the deployment.

    It was broken off by this side, because the client went away or its time was over (which TIMED_OUT counts); or the
    replica had not begun and said so.
    """
    is_broken_off = tags.get(Tag.STATUS) == "0" and tags.get(Tag.FLAGS) == _NO_FLAGS
    return is_broken_off or bool(tags.get(Tag.NOT_BEGUN))


def _is_failure(tags: _Tags) -> bool:
    """Reset, refused, timed out (the flags), or answered with a status that blames the deployment."""
    if tags.get(Tag.FLAGS) != _NO_FLAGS:
        return True
    if tags.get(Tag.GRPC_STATUS, "").strip("-") in _FAILED_GRPC_STATUSES:
        return True
    status = int(tags.get(Tag.STATUS, "0"))
    return status >= 500 or status in FAILED_STATUSES


def _durations(point: Any) -> Totals | None:
    if tuple(point.explicit_bounds) != THRESHOLDS_US:
        log.warning("an envoy of another version measures with other bounds: start it again")
        return None
    return Totals(latencies=Latencies(BOUNDS_MS, tuple(point.bucket_counts)))
