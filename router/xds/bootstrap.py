"""Bootstrap: what an Envoy process is started with. Everything else comes over xDS. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from router.xds import attempts, limits
from router.xds.attempts import DURATION, THRESHOLDS_US
from router.xds.binary import envoy_binary

XDS_CLUSTER = "xds"

# Envoy's own pause grows to 30 s, and it starts before the control plane listens: it would keep everybody waiting, when
# the gateway starts and when a control plane comes back.
_RECONNECT = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}

# Statistics that nobody reads cost memory per cluster: with a thousand endpoints, more than everything else.
_KEPT_STATS = {
    "patterns": [
        {
            "safe_regex": {
                "regex": r"cluster\..*\.(upstream_rq_(total|time|active|[1-5]xx|[1-5][0-9][0-9]|completed|timeout|"
                r"retry|retry_success|retry_overflow|pending_overflow|rx_reset|per_try_timeout)|"
                r"upstream_cx_(total|active|connect_fail)|membership_(healthy|total)|health_check\.(attempt|failure)|"
                r"outlier_detection\.ejections_active)"
            }
        },
        {
            "safe_regex": {
                "regex": r"http\.scoring\.(downstream_rq_(total|active|time|[1-5]xx)|downstream_cx_(total|active))"
            }
        },
        {"prefix": f"{attempts.STAT_PREFIX}."},
        {"prefix": f"{limits.STAT_PREFIX}."},
        {"prefix": "server."},
        {"prefix": "listener_manager."},
        {"prefix": "cluster_manager."},
        {"prefix": "control_plane."},
        {"prefix": "overload."},
    ]
}


@dataclass(frozen=True, slots=True)
class EnvoyProcess:
    """`admin_socket` is made with mode 0600. `concurrency`: worker threads, 0 for one a core."""

    node_id: str
    xds_socket: str
    admin_socket: str
    concurrency: int = 0
    max_heap_bytes: int = 4 * 1024**3
    max_connections: int = 50_000
    log_level: str = "warning"


def envoy_command(process: EnvoyProcess) -> list[str]:
    """The argv, bootstrap included; there is no secret in it."""
    command = [
        str(envoy_binary()),
        "--config-yaml",
        json.dumps(bootstrap(process), sort_keys=True),  # JSON is YAML
        # Several Envoys may run on one machine, and a crashed one must not keep the next from starting.
        "--disable-hot-restart",
        "--log-level",
        process.log_level,
        # It repeats with every route that max_grpc_timeout is deprecated; the successor does not tell replicas the
        # caller's deadline (routes.py).
        "--component-log-level",
        "misc:error",
        "--file-flush-interval-msec",
        "1000",
        "--drain-time-s",
        "1",
        "--drain-strategy",
        "immediate",
    ]
    if process.concurrency:
        command += ["--concurrency", str(process.concurrency)]
    return command


def bootstrap(process: EnvoyProcess) -> dict[str, Any]:
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": process.node_id, "cluster": "crossfade"},
        "admin": {"address": {"pipe": {"path": process.admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": _RECONNECT}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "bootstrap_extensions": [_internal_listeners()],
        "static_resources": {"clusters": [_xds_cluster(process.xds_socket)]},
        "stats_config": {
            "stats_matcher": {"inclusion_list": _KEPT_STATS},
            "histogram_bucket_settings": [{"match": {"prefix": DURATION}, "buckets": list(THRESHOLDS_US)}],
        },
        "stats_flush_interval": "0.5s",
        "stats_sinks": [_attempts_sink()],
        "overload_manager": _overload_manager(process),
    }


def _internal_listeners() -> dict[str, Any]:
    """For mirror_listener.py."""
    kind = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    return {
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {"@type": f"type.googleapis.com/{kind}"},
    }


def _xds_cluster(socket: str) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
                },
            }
        },
    }


def _attempts_sink() -> dict[str, Any]:
    """Pushes what attempts.py counts, and nothing else, to the control plane.

    Differences, and only of what has changed: of 1,000 endpoints that nobody asks, nothing is sent at all.
    """
    sink = "envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig"
    name = "envoy.extensions.matching.common_inputs.stats.v3.StatFullNameMatchInput"
    of_attempts = {
        "single_predicate": {
            "input": {"name": "name", "typed_config": {"@type": f"type.googleapis.com/{name}"}},
            "value_match": {"prefix": f"{attempts.STAT_PREFIX}."},
        }
    }
    drop = {"name": "drop", "typed_config": {"@type": f"type.googleapis.com/{sink}.DropAction"}}
    return {
        "name": "envoy.stat_sinks.open_telemetry",
        "typed_config": {
            "@type": f"type.googleapis.com/{sink}",
            "grpc_service": {"envoy_grpc": {"cluster_name": XDS_CLUSTER}, "timeout": "10s"},
            "report_counters_as_deltas": True,
            "report_histograms_as_deltas": True,
            "custom_metric_conversions": {
                "matcher_list": {
                    "matchers": [{"predicate": {"not_matcher": of_attempts}, "on_match": {"action": drop}}]
                }
            },
        },
    }


def _overload_manager(process: EnvoyProcess) -> dict[str, Any]:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": process.max_heap_bytes,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3."
                    "DownstreamConnectionsConfig",
                    "max_active_downstream_connections": process.max_connections,
                },
            },
        ],
        "actions": [
            _action("envoy.overload_actions.shrink_heap", heap, 0.9),
            _action("envoy.overload_actions.stop_accepting_requests", heap, 0.95),
        ],
    }


def _action(name: str, resource: str, threshold: float) -> dict[str, Any]:
    return {"name": name, "triggers": [{"name": resource, "threshold": {"value": threshold}}]}
