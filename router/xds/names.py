"""Names on the xDS wire: type URLs, resource names, and which group a resource belongs to."""

from __future__ import annotations

from typing import NamedTuple

from router.domain.listening import DEFAULT, Offer

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
SCOPE = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

# Make before break: what a resource leans on is sent before it (a listener finds its requests' scopes there; calls are
# gathered as far as the routes let them, room.py) ...
SEND_ORDER = (CLUSTER, ENDPOINTS, EXTENSION, SCOPE, ROUTES, LISTENER, SECRET)
# ... and removed after it.
REMOVE_ORDER = (SCOPE, ROUTES, LISTENER, SECRET, EXTENSION, CLUSTER, ENDPOINTS)

# Clients ask for all resources of these types, and for the others by name.
WILDCARD_TYPES = frozenset({CLUSTER, LISTENER, SCOPE})

GATEWAY_GROUP = ""
SERVER_CLUSTER = "server"
STREAM_WATCH_CLUSTER = "watch"  # the control plane, where it is told of streams
SERVER_ROUTES = "server"
LISTENER_NAME = "gateway"
MIRROR_LISTENER = "mirror"
REDIRECT_LISTENER = "redirect"
MIRROR_CLUSTER = "mirror"
MIRROR_VIEW = "@mirror"  # of copies, whatever listener their originals came in by; no listener's name

_ENDPOINT_PREFIX = "endpoint/"


class Key(NamedTuple):
    """What identifies a resource."""

    type_url: str
    name: str


# No name of ours has a plus or an at sign.
_GRPC_MARK = "+grpc"
_VIEW_MARK = "@"


def cluster_name(endpoint: str, deployment: str, *, is_grpc_port: bool = False) -> str:
    """`is_grpc_port`: of a deployment that has a port for gRPC alone, the cluster of that port."""
    return f"{endpoint}/{deployment}{_GRPC_MARK if is_grpc_port else ''}"


def shield_name(candidate_cluster: str, stable_cluster: str) -> str:
    """The cluster of requests that go to the one cluster and, when that fails, to the other of the same endpoint."""
    return f"{candidate_cluster}/{stable_cluster.partition('/')[2]}"


def deployment_of_cluster(cluster: str) -> tuple[str, str]:
    """Endpoint and deployment; of a shield's cluster, the candidate. Nothing for a cluster of the gateway's own."""
    endpoint, _, behind = cluster.partition("/")
    return endpoint, behind.partition("/")[0].removesuffix(_GRPC_MARK)


def stat_name(cluster: str) -> str:
    """The cluster's name in Envoy's statistics, where a dot separates words. `cluster_of_stat` is its inverse."""
    return cluster.replace(".", "~")


def cluster_of_stat(name: str) -> str:
    return name.replace("~", ".")


def routes_name(endpoint: str) -> str:
    """The name of an endpoint's RouteConfiguration and of its scope."""
    return f"{_ENDPOINT_PREFIX}{endpoint}"


def view_name(offer: Offer) -> str:
    """What a listener shows has its name; "" is the default one's, whose requests bear no header that says so."""
    return "" if offer.name == DEFAULT else offer.name


def at_view(name: str, view: str) -> str:
    """The name of what there is once for every view."""
    return f"{name}{_VIEW_MARK}{view}" if view else name


def listener_name(offer: Offer) -> str:
    """By its place: a listener that is given another name changes where it stands, and is not in its own way."""
    return LISTENER_NAME if offer.name == DEFAULT else f"listener/{offer.address}:{offer.ports[0]}"


def group_of(key: Key) -> str:
    """The endpoint that a resource belongs to; `GATEWAY_GROUP` for what all endpoints share."""
    if key.type_url in (CLUSTER, ENDPOINTS):
        endpoint, slash, _ = key.name.partition("/")
        return endpoint if slash else GATEWAY_GROUP
    if key.name.startswith(_ENDPOINT_PREFIX):
        return key.name.removeprefix(_ENDPOINT_PREFIX).partition(_VIEW_MARK)[0]
    return GATEWAY_GROUP
