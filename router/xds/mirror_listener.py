"""Mirrored requests: copies on their way to a candidate pass through Envoy a second time, inside the same process.

A route's mirror policy alone would send them with a router of its own that logs no attempts, so nobody could tell what
the candidate made of them. Through a listener of its own, which has no address and that nobody else can reach, they
take the same routes as any request, and are counted, retried and timed like live ones (attempts.py).
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from router.xds.attempts import attempt_logs, timeout_log
from router.xds.clusters import HTTP_OPTIONS
from router.xds.gateway import Gateway
from router.xds.names import MIRROR_CLUSTER, MIRROR_LISTENER
from router.xds.resources import Resource, milliseconds, packed, resource
from router.xds.scopes import scoped_routes

# Copies under way at a time, over all endpoints. Over it they are dropped: a mirror must not cost the live requests.
_MAX_COPIES = 1024


def mirror_listener() -> Resource:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="mirrored",
        codec_type=hcm_pb2.HttpConnectionManager.HTTP2,
        scoped_routes=scoped_routes(by_header=True),
        http_filters=[
            hcm_pb2.HttpFilter(
                name="envoy.filters.http.router", typed_config=packed(router_pb2.Router(upstream_log=attempt_logs()))
            )
        ],
        access_log=[timeout_log()],
        # The copy bears the id of its original: by it, two answers to one request are found.
        generate_request_id=BoolValue(value=False),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams=UInt32Value(value=_MAX_COPIES),
            initial_stream_window_size=UInt32Value(value=1024 * 1024),
            initial_connection_window_size=UInt32Value(value=16 * 1024 * 1024),
        ),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(max_headers_count=UInt32Value(value=200)),
        stream_idle_timeout=Duration(seconds=300),
    )
    filters = listener_components_pb2.FilterChain(
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
            )
        ]
    )
    message = listener_pb2.Listener(
        name=MIRROR_LISTENER,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        filter_chains=[filters],
    )
    return resource(MIRROR_LISTENER, message)


def mirror_cluster(gateway: Gateway) -> Resource:
    """The way to `mirror_listener`."""
    options = http_protocol_options_pb2.HttpProtocolOptions
    limit = UInt32Value(value=_MAX_COPIES)
    message = cluster_pb2.Cluster(
        name=MIRROR_CLUSTER,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=milliseconds(gateway.connect_timeout_ms),
        load_assignment=endpoint_pb2.ClusterLoadAssignment(
            cluster_name=MIRROR_CLUSTER,
            endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[_inside()])],
        ),
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[circuit_breaker_pb2.CircuitBreakers.Thresholds(max_requests=limit, max_pending_requests=limit)]
        ),
        typed_extension_protocol_options={
            HTTP_OPTIONS: packed(
                options(
                    explicit_http_config=options.ExplicitHttpConfig(
                        http2_protocol_options=protocol_pb2.Http2ProtocolOptions()
                    )
                )
            )
        },
    )
    return resource(MIRROR_CLUSTER, message)


def _inside() -> Any:
    internal = address_pb2.EnvoyInternalAddress(server_listener_name=MIRROR_LISTENER)
    address = address_pb2.Address(envoy_internal_address=internal)
    return endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=address))
