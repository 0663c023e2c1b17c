"""Gateway: the settings of the data plane that do not belong to any one endpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.domain.deployment_settings import MIB
from router.domain.tls import ListenerTls
from router.xds.client_limits import ClientLimits

# The gRPC service of the protocol.
SERVICE = "inference.GRPCInferenceService"

# Between Envoy and whoever answers. Replicas refuse a request without the token.
TOKEN_HEADER = "x-crossfade-gateway"
# On a reply: the work was not begun, send the request elsewhere.
RETRY_HEADER = "x-crossfade-retry"
# On a request: it must not be sent twice, whatever happens.
NO_RETRY_HEADER = "x-crossfade-no-retry"
# On a reply: who answered. On a request: who shall answer.
DEPLOYMENT_HEADER = "x-crossfade-deployment"
PIN_HEADERS = (DEPLOYMENT_HEADER, "azureml-model-deployment")
# What a client may show of itself. It ends in Envoy, for every endpoint, protected or not.
PEER_HEADER = "x-crossfade-peer"  # the serial number of its certificate, as the gateway saw it; accepted from nobody
CREDENTIAL_HEADERS = ("authorization", "x-api-key", PEER_HEADER)
# Set by the gateway while it translates a request, never accepted from clients.
MODEL_HEADER = "x-crossfade-model"  # the model that a gRPC call names in its body
ORIGINAL_PATH_HEADER = "x-crossfade-original-path"
# Between the filters before a Triton (triton.py), never accepted from clients: whom an attempt goes to, the path that
# the route chose, and how the request was compressed.
UPSTREAM_HEADER = "x-crossfade-upstream"
ROUTED_PATH_HEADER = "x-crossfade-routed-path"
CODING_HEADER = "x-crossfade-coding"
ADMITTED_HEADER = "x-crossfade-admitted"  # whose key opened the endpoint: `<endpoint>/<slot>/<fingerprint>`
# On a call that is a stream. Never accepted from clients.
STREAM_HEADER = "x-crossfade-stream"
# translation.py puts this before the path of a server-level call, so that scoped routing finds it; it is taken off
# again before the call is answered.
SERVER_PREFIX = "/-/server/-"
# The listener that a request came in by, when that is not the default one. Never accepted from clients.
LISTENER_HEADER = "x-crossfade-listener"
# The sequence that a request belongs to. Never accepted from clients.
SEQUENCE_HEADER = "x-crossfade-sequence"
# On a request that is mirrored, when it reaches a replica, and on its copy. Never accepted from clients.
MIRROR_HEADER = "x-crossfade-mirrored"

# Where routes say how big a body may be, and how Envoy's messages quote it; and other limits (places.py).
LIMITS_METADATA = "crossfade.limits"
MAX_BODY_FORMAT = f"%METADATA(VIRTUAL_HOST:{LIMITS_METADATA}:max_request_bytes)%"


@dataclass(frozen=True, slots=True)
class Gateway:
    """`bind` is an IP address; the listener takes both ports, which serve the same.

    `token`: what replicas require in `TOKEN_HEADER`.
    `access_log`: a file, or /dev/stdout.
    `server_socket`: unix socket on which the control plane answers server-level calls (live, ready, index …).
    `max_request_bytes`: no endpoint accepts more, whatever its deployments say.
    `tls`: of both ports; without it they speak plain text. `redirect_port`: sends plain HTTP there; 0: no such port.
    `clients`: what any one of them may do.
    `trust_domain`: what certificates of the internal CA call this gateway; empty: no replica is on another host.
    """

    bind: str
    http_port: int
    grpc_port: int
    token: str = field(repr=False)
    access_log: str
    server_socket: str
    max_request_bytes: int = 1024 * MIB
    retries: int = 5
    connect_timeout_ms: int = 1000
    health_interval_ms: int = 2000
    health_timeout_ms: int = 5000
    server_timeout_ms: int = 10_000
    tls: ListenerTls | None = None
    redirect_port: int = 0
    clients: ClientLimits = field(default_factory=ClientLimits)
    trust_domain: str = ""
