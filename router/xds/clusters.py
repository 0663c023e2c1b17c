"""Clusters: one per deployment and port, and one for the server-level calls. How Envoy talks to those who answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, health_check_pb2, protocol_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from router.domain.deployment_settings import MIB
from router.domain.replica_tls import deployment_prefix, replicas_prefix
from router.domain.routing import Routing, Shield, Upstream
from router.domain.triton_managed import ManagedModel
from router.domain.triton_tls import TritonTls
from router.xds.gateway import TOKEN_HEADER, Gateway
from router.xds.names import ENDPOINTS, SERVER_CLUSTER, Key, at_view, cluster_name, shield_name, stat_name
from router.xds.replica_tls import REPLICA_SECRETS, replica_tls_match
from router.xds.resources import Resource, milliseconds, packed, resource
from router.xds.retries import shield_policy
from router.xds.triton import own_filters, readiness_check, shield_filters, token_filters
from router.xds.upstream_tls import HTTP1, HTTP2, protocol_of_check, upstream_secret_keys, upstream_tls_socket

# Below the 3600 s after which a replica closes an idle connection, so that Envoy never writes into a closing one.
UPSTREAM_IDLE_TIMEOUT_S = 1800

_SERVER_MAX_REQUESTS = 1024
# How much of what stable may have under way can be requests that failed on the candidate. Over it, the failure is
# shown: stable's own callers come first. (A retry budget would not do: Envoy relates it to what is under way on the
# cluster itself, and nothing ever is on one that only lends the replicas of others.)
_SHIELD_PERCENT = 20
# A prime, 40 times as large as the most servers that there may be.
_HASH_TABLE_SIZE = 4099
# A Triton's reply may be as large as the largest request, and at least this.
_LARGEST_REPLY_BYTES = 64 * MIB
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def deployment_clusters(endpoint: str, upstream: Upstream, gateway: Gateway) -> list[Resource]:
    """How one deployment is reached, one for each of `Upstream.ports`. The addresses are not in it: they change without
    touching connections.
    """
    name = cluster_name(endpoint, upstream.deployment)
    remote = _remote(gateway, deployment_prefix(gateway.trust_domain, endpoint, upstream.deployment))
    if upstream.triton is None:
        return [
            _cluster(name, upstream.max_requests, _replica_check("/v2/health/ready", gateway), gateway, remote=remote)
        ]
    return [
        _cluster(
            cluster_name(endpoint, upstream.deployment, is_grpc_port=is_grpc_port),
            upstream.max_requests,
            readiness_check(upstream),
            gateway,
            options=_with_filters(
                _http2() if is_grpc_port else _http1_with_trailers(),
                own_filters(endpoint, upstream, gateway, is_grpc_port=is_grpc_port),
            ),
            buffered_bytes=_buffered_bytes([upstream], gateway),
            # A cluster waits for its secrets, and may wait while it has nobody to talk to: then they may be missing.
            tls=upstream.tls if upstream.addresses else None,
            remote=remote if isinstance(upstream.triton, ManagedModel) else "",
            is_http2=is_grpc_port,
            is_hashed=upstream.keeps_sequences,
        )
        for is_grpc_port in upstream.ports
    ]


def server_cluster(gateway: Gateway, view: str = "") -> Resource:
    """Who answers server-level calls. Asked whether it lives: a server that says "not ready" is right to say so."""
    name, check = at_view(SERVER_CLUSTER, view), _replica_check("/v2/health/live", gateway)
    remote = _remote(gateway, replicas_prefix(gateway.trust_domain))
    return _cluster(name, _SERVER_MAX_REQUESTS, check, gateway, remote=remote)


def shield_clusters(routing: Routing, shield: Shield, gateway: Gateway) -> list[Resource]:
    """One; two where one of the deployments has a port for each protocol."""
    return [_shield_cluster(routing, shield, gateway, is_grpc=is_grpc) for is_grpc in routing.ways]


def _shield_cluster(routing: Routing, shield: Shield, gateway: Gateway, *, is_grpc: bool) -> Resource:
    """The candidate's replicas first, stable's behind them: they are those clusters' own, connections included.

    The retry policy hangs on the cluster and not on the route, so stable's own share keeps its own. So do the filters
    before an attempt: Envoy takes them from this cluster, and the protocol from the host's.
    """
    members = [routing.upstream(deployment) for deployment in (shield.candidate, shield.stable)]
    candidate, stable = (reached_by(routing.endpoint, member, is_grpc=is_grpc) for member in members)
    name = shield_name(candidate, stable)
    options = _http1_with_trailers()
    if any(member.triton for member in members):
        for member in members:
            options = _with_filters(options, token_filters(member, is_grpc_port=_port_of(member, is_grpc=is_grpc)))
        options = _with_filters(options, shield_filters(gateway))
    options.retry_policy.CopyFrom(shield_policy(gateway))
    message = cluster_pb2.Cluster(
        name=name,
        alt_stat_name=stat_name(name),
        connect_timeout=milliseconds(gateway.connect_timeout_ms),
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        cluster_type=cluster_pb2.Cluster.CustomClusterType(
            name="envoy.clusters.aggregate",
            typed_config=packed(aggregate_pb2.ClusterConfig(clusters=[candidate, stable])),
        ),
        per_connection_buffer_limit_bytes=_buffered_bytes(members, gateway),
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[
                circuit_breaker_pb2.CircuitBreakers.Thresholds(
                    max_retries=UInt32Value(
                        value=max(1, routing.upstream(shield.stable).max_requests * _SHIELD_PERCENT // 100)
                    )
                )
            ]
        ),
        typed_extension_protocol_options={HTTP_OPTIONS: packed(options)},
    )
    return resource(name, message)


def reached_by(endpoint: str, upstream: Upstream, *, is_grpc: bool) -> str:
    """The name of the cluster that requests of a protocol go to. Where gRPC alone is taken, it refuses the others."""
    return cluster_name(endpoint, upstream.deployment, is_grpc_port=_port_of(upstream, is_grpc=is_grpc))


def _port_of(upstream: Upstream, *, is_grpc: bool) -> bool:
    """Whether it is the one for gRPC alone."""
    return is_grpc if is_grpc in upstream.ports else upstream.ports[0]


def _remote(gateway: Gateway, prefix: str) -> str:
    """How the name in the certificate of a replica on another host begins. Empty: there is none on another host."""
    return prefix if gateway.trust_domain else ""


def _with_filters(options: Any, filters: list[Any]) -> Any:
    options.http_filters.extend(filters)
    return options


def _buffered_bytes(members: Iterable[Upstream], gateway: Gateway) -> Any:
    """The filters before Triton hold whole requests and replies. Nothing to say where there are none."""
    sizes = [upstream.max_request_bytes for upstream in members if upstream.triton is not None]
    if not sizes:
        return None
    return UInt32Value(value=max(_LARGEST_REPLY_BYTES, min(max(sizes), gateway.max_request_bytes)))


def _cluster(
    name: str,
    max_requests: int,
    health: Any,
    gateway: Gateway,
    *,
    options: Any = None,
    buffered_bytes: Any = None,
    tls: TritonTls | None = None,
    remote: str = "",
    is_http2: bool = False,
    is_hashed: bool = False,
) -> Resource:
    message = cluster_pb2.Cluster(
        name=name,
        alt_stat_name=stat_name(name),
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(
            eds_config=config_source_pb2.ConfigSource(
                ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
            )
        ),
        connect_timeout=milliseconds(gateway.connect_timeout_ms),
        lb_policy=cluster_pb2.Cluster.LEAST_REQUEST,
        common_lb_config=cluster_pb2.Cluster.CommonLbConfig(
            # Only when no replica at all passes its health check is the check itself doubted: under overload all of
            # them are late, and refusing everybody would turn a slow gateway into a dead one. Replicas that are
            # really gone fail at once, and a new deployment's first replica answers before its first check is back.
            healthy_panic_threshold=percent_pb2.Percent(value=1),
            # Envoy gathers health changes for a second before it heeds them: a new replica would get nothing so long,
            # and a kill of the other one in that second would be noticed.
            update_merge_window=Duration(seconds=0),
        ),
        ignore_health_on_host_removal=True,  # the control plane knows better than the last health check
        circuit_breakers=_circuit_breakers(max_requests),
        outlier_detection=_outlier_detection(),
        health_checks=[_health_check(health, gateway)],
        per_connection_buffer_limit_bytes=buffered_bytes,
        typed_extension_protocol_options={HTTP_OPTIONS: packed(options or _http1_with_trailers())},
    )
    keeps = frozenset({Key(ENDPOINTS, name)})
    if is_hashed:
        message.lb_policy = cluster_pb2.Cluster.MAGLEV
        message.maglev_lb_config.table_size.value = _HASH_TABLE_SIZE
    if tls is not None:
        keeps |= upstream_secret_keys(tls)
        message.transport_socket.CopyFrom(upstream_tls_socket(tls, is_http2=is_http2))
        message.health_checks[0].tls_options.alpn_protocols.append(protocol_of_check(health))
    if remote:
        keeps |= REPLICA_SECRETS
        message.transport_socket_matches.append(replica_tls_match(remote, HTTP2 if is_http2 else HTTP1))
        message.health_checks[0].tls_options.alpn_protocols.append(HTTP1)
    return resource(name, message, keeps=keeps)


def _circuit_breakers(max_requests: int) -> Any:
    """Bounds on what is under way; over `max_requests`, a request is refused at once instead of queued.

    So connections are not what limits (HTTP/1.1 needs one a request), nor are retries: Envoy's default of 3 is what
    makes failover break under load.
    """
    limit, ample = UInt32Value(value=max_requests), UInt32Value(value=2 * max_requests)
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_connections=ample, max_pending_requests=limit, max_requests=limit, max_retries=limit
            )
        ]
    )


def _outlier_detection() -> Any:
    """Eject, for a short while, a host that cannot be connected to. Never on what it answers:

    a 503 or 504 can be the caller's doing (a deadline of 1 ms), and health checks see what a replica says of itself.
    At most half of the replicas, so the only one stays.
    """
    return outlier_detection_pb2.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=UInt32Value(value=5),
        enforcing_consecutive_local_origin_failure=UInt32Value(value=100),
        enforcing_local_origin_success_rate=UInt32Value(value=0),
        enforcing_consecutive_5xx=UInt32Value(value=0),
        enforcing_consecutive_gateway_failure=UInt32Value(value=0),
        enforcing_success_rate=UInt32Value(value=0),
        interval=Duration(seconds=1),
        base_ejection_time=Duration(seconds=2),
        max_ejection_time=Duration(seconds=10),
        max_ejection_percent=UInt32Value(value=50),
    )


def _replica_check(path: str, gateway: Gateway) -> Any:
    return health_check_pb2.HealthCheck.HttpHealthCheck(
        host="crossfade", path=path, request_headers_to_add=[token_header(gateway)]
    )


def _health_check(health: Any, gateway: Gateway) -> Any:
    return health_check_pb2.HealthCheck(
        interval=milliseconds(gateway.health_interval_ms),
        no_traffic_interval=milliseconds(gateway.health_interval_ms),
        timeout=milliseconds(gateway.health_timeout_ms),
        interval_jitter_percent=10,
        unhealthy_threshold=UInt32Value(value=2),
        healthy_threshold=UInt32Value(value=1),
        http_health_check=health,
    )


def _http1_with_trailers() -> Any:
    options = http_protocol_options_pb2.HttpProtocolOptions
    return options(
        explicit_http_config=options.ExplicitHttpConfig(
            http_protocol_options=protocol_pb2.Http1ProtocolOptions(enable_trailers=True)
        ),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            idle_timeout=Duration(seconds=UPSTREAM_IDLE_TIMEOUT_S)
        ),
    )


def _http2() -> Any:
    options = http_protocol_options_pb2.HttpProtocolOptions
    return options(
        explicit_http_config=options.ExplicitHttpConfig(
            http2_protocol_options=protocol_pb2.Http2ProtocolOptions(
                initial_stream_window_size=UInt32Value(value=1024 * 1024),
                initial_connection_window_size=UInt32Value(value=16 * 1024 * 1024),
            )
        ),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            idle_timeout=Duration(seconds=UPSTREAM_IDLE_TIMEOUT_S)
        ),
    )


def token_header(gateway: Gateway) -> Any:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=TOKEN_HEADER, value=gateway.token),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
