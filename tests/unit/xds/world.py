"""Small resources and settings for tests of the xDS parts."""

from __future__ import annotations

from router.domain.routing import Routing, Shield, TritonAddress, UnixAddress, Upstream
from router.domain.traffic import Mirror, Traffic
from router.domain.triton import RunningTriton, TritonServer
from router.xds.gateway import Gateway
from router.xds.names import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SCOPE, Key, routes_name
from router.xds.resources import Resource

GATEWAY = Gateway(
    bind="127.0.0.1",
    http_port=8000,
    grpc_port=8001,
    token="secret",
    access_log="/dev/stdout",
    server_socket="/run/crossfade/server.sock",
)


def upstream(deployment: str, *sockets: str, version: str = "1", max_requests: int = 100) -> Upstream:
    addresses = tuple(UnixAddress(socket) for socket in sorted(sockets))
    return Upstream(deployment, version, addresses, 5000, max_requests, 1024 * 1024)


def triton(deployment: str, *ips: str, version: str = "1") -> Upstream:
    model = RunningTriton(tuple(TritonServer(ip) for ip in ips), "fraud_v2", 3)
    addresses = tuple(TritonAddress(ip, 8000, 8001) for ip in sorted(ips))
    return Upstream(deployment, version, addresses, 5000, 100, 1024 * 1024, triton=model)


def routing(
    endpoint: str,
    *upstreams: Upstream,
    traffic: dict[str, int] | None = None,
    mirror: Mirror | None = None,
    shield: Shield | None = None,
) -> Routing:
    shares = {upstreams[0].deployment: 100} if traffic is None else traffic
    return Routing(endpoint, Traffic.of(shares), mirror, upstreams, shield)


def cluster(name: str, version: str = "1") -> Resource:
    return Resource(Key(CLUSTER, name), version, b"", keeps=frozenset({Key(ENDPOINTS, name)}))


def addresses(name: str, version: str = "1", of: Resource | None = None) -> Resource:
    plain = Resource(Key(ENDPOINTS, name), version, b"")
    return plain.following(of) if of else plain


def routes(endpoint: str, *clusters: str, version: str = "1") -> Resource:
    needs = frozenset(Key(kind, name) for name in clusters for kind in (CLUSTER, ENDPOINTS))
    return Resource(Key(ROUTES, routes_name(endpoint)), version, b"", needs=needs)


def scope(endpoint: str, *clusters: str) -> Resource:
    name = routes_name(endpoint)
    return Resource(
        Key(SCOPE, name), "1", b"", needs=routes(endpoint, *clusters).needs, keeps=frozenset({Key(ROUTES, name)})
    )


def listener(version: str = "1") -> Resource:
    return Resource(Key(LISTENER, "gateway"), version, b"")


def endpoint(name: str, *deployments: str, version: str = "1") -> dict[Key, Resource]:
    """All resources of an endpoint whose routes have `version`."""
    clusters = [f"{name}/{deployment}" for deployment in deployments]
    found = [scope(name, *clusters), routes(name, *clusters, version=version)]
    for one in clusters:
        found += [cluster(one), addresses(one, of=cluster(one))]
    return {resource.key: resource for resource in found}
