"""Bootstrap: what an Envoy process is started with. Everything else comes over xDS. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from router.xds import attempts, limits
from router.xds.attempts import DURATION, THRESHOLDS_US
from router.xds.binary import envoy_binary
from router.xds.client_limits import ClientLimits
from router.xds.doorkeeper import MAX_BEGUN
from router.xds.names import STREAM_WATCH_CLUSTER

XDS_CLUSTER = "xds"

# How long the connections of a listener that was changed or removed may still be used: they are told to go with their
# next reply, and cut when this is over, with whatever is under way. Streams may take their time; a listener that waits
# for the last of them costs some memory.
DRAIN_S = 3600

# Envoy's own pause grows to 30 s, and it starts before the control plane listens: it would keep everybody waiting, when
# the gateway starts and when a control plane comes back.
_RECONNECT = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}

# Envoy closes a connection on which most of the streams were reset within a second of their begin, once there were so
# many: its answer to floods of resets. By default that is 500, and then a client whose model hangs and whose deadline
# is short loses its connection with everything on it, also what others answer (tests/envoy/test_client_limits.py). A
# flood loses nothing: it opens another one. So this is a last resort here; what keeps a flood from taking all is that
# connections take turns.
_REQUESTS_A_TURN = 16

_RUNTIME = {
    "overload.premature_reset_total_stream_count": 2 * ClientLimits().early_resets,
    "http.max_requests_per_io_cycle": _REQUESTS_A_TURN,
}

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
        {"safe_regex": {"regex": r"http2\..*(flood|reset|error)"}},
        {"prefix": "server."},
        {"prefix": "listener_manager."},
        {"prefix": "cluster_manager."},
        {"prefix": "control_plane."},
        {"prefix": "overload."},
    ]
}

_LEAST_STREAM_TO_RESET = 1 << 20  # bytes that it holds; a power of two


@dataclass(frozen=True, slots=True)
class EnvoyProcess:
    """`admin_socket` is made with mode 0600. `concurrency`: worker threads, 0 for one a core."""

    node_id: str
    xds_socket: str
    admin_socket: str
    concurrency: int = 0
    max_heap_bytes: int = 1024**3
    max_connections: int = 10_000
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
        str(DRAIN_S),
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
        "static_resources": {"clusters": [_xds_cluster(process.xds_socket), _watch_cluster(process.xds_socket)]},
        "stats_config": {
            "stats_matcher": {"inclusion_list": _KEPT_STATS},
            "histogram_bucket_settings": [{"match": {"prefix": DURATION}, "buckets": list(THRESHOLDS_US)}],
        },
        "stats_flush_interval": "0.5s",
        "stats_sinks": [_attempts_sink()],
        "overload_manager": _overload_manager(process),
        "layered_runtime": {"layers": [{"name": "crossfade", "static_layer": _RUNTIME}]},
    }


def _internal_listeners() -> dict[str, Any]:
    """For mirror_listener.py."""
    kind = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    return {
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {"@type": f"type.googleapis.com/{kind}"},
    }


def _xds_cluster(socket: str) -> dict[str, Any]:
    return _control_plane(XDS_CLUSTER, socket, {"connection_keepalive": {"interval": "10s", "timeout": "5s"}})


def _watch_cluster(socket: str) -> dict[str, Any]:
    """Of its own, for many streams (stream_watch.py) must not keep the configuration out. Without pings: a control
    plane that stands still for a while, as when its machine was suspended, has forgotten none of them."""
    enough = 2 * MAX_BEGUN  # the control plane is to refuse, not Envoy, which would let them go on unwatched
    breakers = {"thresholds": [{"max_requests": enough, "max_pending_requests": enough}]}
    return _control_plane(STREAM_WATCH_CLUSTER, socket, {}) | {"circuit_breakers": breakers}


def _control_plane(name: str, socket: str, http2: dict[str, Any]) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": http2},
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
        # First what nobody misses. Then the streams that hold most, so that the others may go on; then new requests,
        # and at last new connections, are refused. What HTTP/1.1 requests hold is not counted by stream: there it is
        # chance that ends a connection, each time that something arrives, which hits those who send much.
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": _LEAST_STREAM_TO_RESET.bit_length() - 1},
        "actions": [
            _action("shrink_heap", _above(heap, 0.9)),
            _reduced_timeouts(_between(heap, 0.85, 0.95)),
            _action("reset_high_memory_stream", _between(heap, 0.92, 0.98)),
            _action("stop_accepting_requests", _above(heap, 0.95)),
            _action("reject_incoming_connections", _above(heap, 0.98)),
        ],
        "loadshed_points": [
            {
                "name": "envoy.load_shed_points.http1_server_abort_dispatch",
                "triggers": [_between(heap, 0.9, 1.0)],
            }
        ],
    }


def _reduced_timeouts(trigger: dict[str, Any]) -> dict[str, Any]:
    """Idle connections go the sooner, the fuller it is."""
    config = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig"
    scaled = {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_scale": {"value": 5}}  # percent
    typed_config = {"@type": f"type.googleapis.com/{config}", "timer_scale_factors": [scaled]}
    return _action("reduce_timeouts", trigger) | {"typed_config": typed_config}


def _action(name: str, trigger: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}


def _above(resource: str, threshold: float) -> dict[str, Any]:
    return {"name": resource, "threshold": {"value": threshold}}


def _between(resource: str, begins: float, is_full: float) -> dict[str, Any]:
    """The more, the further the resource is between the two."""
    return {"name": resource, "scaled": {"scaling_threshold": begins, "saturation_threshold": is_full}}
