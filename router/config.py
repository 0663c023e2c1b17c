"""Where a gateway lives: its ports, its data directory, and the short-lived run directory with its sockets.

The supervisor builds a `GatewayConfig` from the command line and hands it to the control plane as a JSON file.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from router.domain.errors import Invalid
from router.domain.listening import GatewaySpec, Offer, Premises
from router.domain.plain import from_plain
from router.domain.tls import ListenerTls
from router.private_files import write_private

LOOPBACK = "127.0.0.1"

# sysexits.h EX_CONFIG: the control plane says that starting it again would end the same way.
EXIT_HOPELESS = 78
# sysexits.h EX_TEMPFAIL: it lost Ray, and starts again to join it afresh.
EXIT_RAY_LOST = 75


@dataclass(frozen=True, slots=True)
class Ports:
    """The four ports of the contract, and one that need not be."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    admin: int = 8003
    redirect_http: int = 0  # plain HTTP that is sent to TLS; 0: no such port

    def __post_init__(self) -> None:
        named = {name.replace("_", "-"): port for name, port in asdict(self).items() if name != "redirect_http" or port}
        for name, port in named.items():
            if not 1 <= port <= 65535:
                raise Invalid(f"--{name}-port", f"{port} is not a port", "use 1 to 65535")
        for name, port in named.items():
            twins = [other for other, value in named.items() if value == port and other != name]
            if twins:
                raise Invalid(f"--{name}-port", f"{port} is also --{twins[0]}-port", "give each its own port")


@dataclass(frozen=True, slots=True)
class OwnPort:
    """Where one of the control plane's own ports listens. `name` is what its options begin with.

    `tls` None: plain text, which stays on loopback. With a `client_ca`, nobody gets in without a certificate of it.
    """

    name: str
    bind: str = LOOPBACK
    tls: ListenerTls | None = None

    def __post_init__(self) -> None:
        checked_address(f"--{self.name}-bind", self.bind)
        if self.tls is None and not is_loopback(self.bind):
            raise Invalid(
                f"--{self.name}-bind",
                f"{self.bind} can be reached from other machines, and there is no TLS",
                f"give --{self.name}-tls-certificate and --{self.name}-tls-key, or make a certificate with"
                " `crossfade tls init`",
            )

    def url(self, port: int) -> str:
        """For a client on this machine."""
        return f"{'https' if self.tls else 'http'}://{reachable(self.bind)}:{port}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """`data_dir` survives restarts, `run_dir` does not. `ray_address` is where the Ray head listens (host:port).

    `registries`: the settings file that the operator named, "" when none was.
    `tls`: of the scoring ports; None: they speak plain text. `admin`, `metrics`: the control plane's own ports.
    """

    gateway_id: str
    data_dir: str
    run_dir: str
    bind: str
    ports: Ports
    ray_address: str
    is_ray_ours: bool
    registries: str = ""
    tls: ListenerTls | None = None
    admin: OwnPort = field(default_factory=lambda: OwnPort("admin"))
    metrics: OwnPort = field(default_factory=lambda: OwnPort("metrics"))

    @property
    def premises(self) -> Premises:
        """What listeners of a spec must go with."""
        taken = [
            ("the metrics", self.metrics.bind, self.ports.metrics),
            ("the admin API", self.admin.bind, self.ports.admin),
        ]
        if self.ports.redirect_http:
            taken.append(("the redirect to TLS", self.bind, self.ports.redirect_http))
        return Premises(
            self.bind,
            (self.ports.http, self.ports.grpc),
            is_tls=self.tls is not None,
            verifies_clients=self.tls is not None and self.tls.has_client_ca,
            taken=tuple(taken),
        )

    @property
    def database(self) -> Path:
        return Path(self.data_dir, "state.sqlite")

    @property
    def admin_token_file(self) -> Path:
        return Path(self.data_dir, "admin.token")

    @property
    def ray_token_file(self) -> Path:
        """Ray's own token authentication: nobody else on this machine can talk to our Ray."""
        return Path(self.data_dir, "ray.token")

    @property
    def gateway_token_file(self) -> Path:
        return Path(self.data_dir, "gateway.token")

    @property
    def internal_ca_dir(self) -> Path:
        """The CA of this gateway's Envoy and of its replicas on other hosts; nobody else's business."""
        return Path(self.data_dir, "internal-ca")

    @property
    def log_dir(self) -> Path:
        return Path(self.data_dir, "logs")

    @property
    def replica_log_dir(self) -> Path:
        return self.log_dir / "replicas"

    @property
    def replica_cache_dir(self) -> Path:
        """Where replicas keep graphs and engines that were optimised for this machine. It may be deleted any time."""
        return Path(self.data_dir, "cache")

    @property
    def registries_file(self) -> Path:
        """The operator's settings for registries; there may be none at the usual place."""
        return Path(self.registries) if self.registries else usual_registries_file(Path(self.data_dir))

    @property
    def models_dir(self) -> Path:
        """The model cache: what the deployments run from, verified, whether or not their registries answer."""
        return Path(self.data_dir, "models")

    @property
    def model_records(self) -> Path:
        return self.models_dir / "records.jsonl"

    @property
    def access_log(self) -> Path:
        return self.log_dir / "access.jsonl"

    @property
    def xds_socket(self) -> Path:
        return Path(self.run_dir, "xds.sock")

    @property
    def server_socket(self) -> Path:
        """Where the control plane answers the protocol's server-level calls for Envoy."""
        return Path(self.run_dir, "server.sock")

    @property
    def known_authorities(self) -> Path:
        """Whose certificates clients' connections may have been opened with, which end no later than this folder."""
        return Path(self.run_dir, "known-authorities.pem")

    @property
    def envoy_admin_socket(self) -> Path:
        return Path(self.run_dir, "envoy.sock")

    @property
    def replica_dir(self) -> Path:
        return Path(self.run_dir, "replicas")

    @property
    def waiting_room_dir(self) -> Path:
        """Where requests to sleeping deployments wait, one socket for each deployment."""
        return Path(self.run_dir, "waiting")

    @property
    def ray_dir(self) -> Path:
        return Path(self.run_dir, "ray")

    @property
    def ray_home(self) -> Path:
        return Path(self.run_dir, "ray-home")

    @property
    def gateway_token(self) -> str:
        """What Envoy shows to replicas, so that they know a request came through it."""
        return self.gateway_token_file.read_text().strip()

    @property
    def scoring_url(self) -> str:
        """Of the listener that the command line describes."""
        return scoring_url(self.premises.offers(GatewaySpec())[0])

    @property
    def admin_url(self) -> str:
        return self.admin.url(self.ports.admin)

    @property
    def admin_socket(self) -> Path:
        """The admin API again, for this user on this machine, whatever its port asks of clients."""
        return admin_socket_in(Path(self.run_dir))

    @property
    def metrics_url(self) -> str:
        return f"{self.metrics.url(self.ports.metrics)}/metrics"

    def write(self) -> Path:
        path = Path(self.data_dir, "gateway.json")
        path.write_text(json.dumps(asdict(self), indent=1))
        return path

    @classmethod
    def read(cls, path: str) -> GatewayConfig:
        fields = json.loads(Path(path).read_text())
        tls = from_plain(ListenerTls, fields["tls"]) if fields.get("tls") else None
        own = {name: from_plain(OwnPort, fields[name]) for name in ("admin", "metrics") if name in fields}
        return cls(**{**fields, "ports": Ports(**fields["ports"]), "tls": tls, **own})


def scoring_url(offer: Offer) -> str:
    """A URL that a client on this machine can use."""
    return f"{'https' if offer.is_tls else 'http'}://{reachable(offer.address)}:{offer.ports[0]}"


def reachable(bind: str) -> str:
    """The host, as URLs have it, that a client on this machine can use for a listener bound to `bind`."""
    if bind in ("0.0.0.0", "::"):
        return LOOPBACK
    return f"[{bind}]" if ":" in bind else bind


def is_loopback(bind: str) -> bool:
    return ipaddress.ip_address(bind).is_loopback


def checked_address(option: str, bind: str) -> str:
    """Raises `Invalid` for what is no IP address."""
    try:
        ipaddress.ip_address(bind)
    except ValueError:
        raise Invalid(option, f"{bind!r} is not an IP address", "use an address of this machine") from None
    return bind


def admin_socket_in(run_dir: Path) -> Path:
    return run_dir / "admin.sock"


def usual_registries_file(data_dir: Path) -> Path:
    return data_dir / "registries.yaml"


def run_dir_for(data_dir: Path) -> Path:
    """A short, private, stable path: unix socket paths end at 107 bytes, and data directories can be deep."""
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir(), f"crossfade-{os.getuid()}-{digest}")


def kept_secret(path: Path) -> str:
    """Read the secret in `path`, or make one (256 bits) that only this user may read.

    An empty file, which a crash of something else may leave, is made anew.
    """
    with contextlib.suppress(FileNotFoundError):
        if secret := path.read_text().strip():
            return secret
    secret = secrets.token_urlsafe(32)
    write_private(path, f"{secret}\n".encode())
    return secret
