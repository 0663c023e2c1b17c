"""The programs that make up a gateway, as the supervisor starts them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from adapters.ray.home import with_a_home_of_its_own
from router.config import EXIT_HOPELESS, LOOPBACK, GatewayConfig
from router.machine import memory_bytes, open_files
from router.premises import free_port
from router.supervisor import RUN_VARIABLE, ChildSpec
from router.xds.bootstrap import EnvoyProcess, envoy_command

# Ray counts CPUs to decide where replicas fit. On a machine of our own, blue and green often share the cores that one
# of them would use alone, so the count is generous; threads are still sized by each deployment's own share.
CPU_OVERCOMMIT = 4

# What Envoy, Ray and the replicas that Ray starts get of the environment of `crossfade up`: what programs need to run
# on this machine, and nothing else. Secrets of registries, tokens and proxies with passwords are the control plane's.
_PLAIN = (
    "CROSSFADE_TRITONSERVER",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
    "XDG_CACHE_HOME",
)
_PLAIN_BEGINNINGS = (
    *("LC_", "LD_", "PYTHON", "RAY_", "MALLOC_", "GLIBC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"),
    *("CUDA", "CUDNN", "NVIDIA", "NCCL_", "ORT_", "TENSORRT", "TRT_", "TRITON_"),
)

_OBJECT_STORE_BYTES = 80 * 1024 * 1024  # requests never pass through Ray: its smallest object store is plenty

_MOST_HEAP_BYTES = 4 * 1024**3
_MOST_CONNECTIONS = 50_000


def children(config: GatewayConfig, run_id: str) -> dict[str, ChildSpec]:
    """Name → child, in the order in which they are started. Ray is left out when somebody else's is used."""
    added = {RUN_VARIABLE: run_id, "PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    # Disabled, Ray would still tell its makers once that it is.
    added["RAY_USAGE_STATS_REPORT_URL"] = "http://127.0.0.1:9/"
    added["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime 1.31 tells mobile.events.data.microsoft.com, on Linux too
    if config.is_ray_ours:
        # Despite its name: whether Ray looks for an address that other hosts can reach. Ours stays on loopback.
        added["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Requests are drained before Ray is told to end: it need not wait until its node is idle, which it never is.
        added["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
        # Ray makes its workers nice (15), for they are batch jobs elsewhere; here callers wait for them.
        added["RAY_worker_niceness"] = "0"
        added |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(config.ray_token_file)}
    whole, plain = {**os.environ, **added}, {**plain_environment(os.environ), **added}
    specs = {
        "control plane": ChildSpec(
            "control plane",
            (sys.executable, "-m", "router.app", str(config.write())),
            config.log_dir / "control-plane.log",
            whole,
            stop_signal=signal.SIGINT,  # Ray's C++ core takes SIGTERM over and ends the process on the spot
            stop_grace_s=5,
            hopeless_code=EXIT_HOPELESS,
        ),
        "envoy": ChildSpec("envoy", tuple(_envoy(config)), config.log_dir / "envoy.log", plain, stop_grace_s=5),
    }
    if config.is_ray_ours:
        environment = with_a_home_of_its_own(plain, config.ray_home)
        specs["ray"] = ChildSpec(
            "ray", tuple(_ray_head(config)), config.log_dir / "ray.log", environment, stop_grace_s=8
        )
    return specs


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of it is no secret."""
    return {name: value for name, value in environment.items() if name in _PLAIN or name.startswith(_PLAIN_BEGINNINGS)}


def _ray_head(config: GatewayConfig) -> list[str]:
    _, _, port = config.ray_address.rpartition(":")
    cpus = CPU_OVERCOMMIT * (os.cpu_count() or 1)
    return [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--include-dashboard=false",
        "--include-log-monitor=false",
        "--no-monitor",
        f"--node-ip-address={LOOPBACK}",
        f"--port={port}",
        f"--ray-client-server-port={free_port()}",
        f"--num-cpus={cpus}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        f"--temp-dir={config.ray_dir}",
    ]


def _envoy(config: GatewayConfig) -> list[str]:
    # Beside replicas, Envoy gets half of the cores: fewer workers find more to do each time they wake up. Measured on
    # two cores with 32 connections: one worker takes 35 µs a JSON request and 44 µs a gRPC call, two take 44 and 55,
    # and the gateway answers 18% and 15% more. On a host of its own it gets them all.
    workers = max(1, len(os.sched_getaffinity(0)) // 2) if config.is_ray_ours else 0
    process = EnvoyProcess(
        node_id=config.gateway_id,
        xds_socket=str(config.xds_socket),
        admin_socket=str(config.envoy_admin_socket),
        concurrency=workers,
        max_heap_bytes=min(_MOST_HEAP_BYTES, memory_bytes() // 2),
        # A connection is an open file, and so is each one to a replica.
        max_connections=min(_MOST_CONNECTIONS, open_files() // 2),
    )
    return envoy_command(process)
