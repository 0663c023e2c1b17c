"""Triton: a model that Triton Inference Servers somewhere else serve already, and how it is reached.

Nothing here starts a server: such a deployment has no model of ours to resolve.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from router.domain.errors import Invalid
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken

MAX_SERVERS = 100
MAX_VERSION = 2**63 - 1

# Of what Triton takes for a model's name, that which can stand in a path as it is.
TRITON_MODEL_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
HOST_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_MODEL = re.compile(TRITON_MODEL_PATTERN)
_HOST = re.compile(HOST_PATTERN)


class TritonMode(StrEnum):
    """`DIRECT`: Envoy balances over the servers, and no process of ours stands between. `BRIDGE`: replicas of ours do,
    with all that they bring, and ask the servers.
    """

    DIRECT = "direct"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class TritonServer:
    """`host` is an IPv4 address, or a name; of a name that has several addresses, each is a server."""

    host: str
    http_port: int = 8000
    grpc_port: int = 8001

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise Invalid("triton.servers", f"{self.host[:60]!r} is no host", "use a name or an IPv4 address")
        for key, port in (("http_port", self.http_port), ("grpc_port", self.grpc_port)):
            if not 1 <= port <= 65535:
                raise Invalid(f"triton.servers.{key}", f"{port} is out of range", "use 1 to 65535")
        if self.http_port == self.grpc_port:
            raise Invalid("triton.servers", "have one port for two protocols", "use Triton's http and grpc ports")


@dataclass(frozen=True, slots=True)
class RunningTriton:
    """`model` as Triton knows it, at `version`; 0: the one that Triton's own version policy chooses.

    `tls`: how it is reached; None: in plain text. `has_sequences`: requests may belong together, and then need the same
    server. `restricted`: the token that it wants to see. None of them is in the repr, which is of what is asked for.
    """

    servers: tuple[TritonServer, ...]
    model: str
    version: int = 0
    mode: TritonMode = TritonMode.DIRECT
    tls: TritonTls | None = field(default=None, repr=False)
    has_sequences: bool = field(default=False, repr=False)
    restricted: TritonToken | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.servers) <= MAX_SERVERS:
            raise Invalid("triton.servers", f"there are {len(self.servers)}", f"name 1 to {MAX_SERVERS} servers")
        reached = [(server.host, server.http_port) for server in self.servers]
        if len(set(reached)) < len(reached):
            raise Invalid("triton.servers", "name a server twice", "name each server once")
        if not _MODEL.fullmatch(self.model):
            raise Invalid(
                "triton.model",
                f"{self.model[:60]!r} cannot stand in a path",
                "use 1 to 200 letters, digits, '.', '_' and '-', beginning with a letter, a digit or '_'",
            )
        if not 0 <= self.version <= MAX_VERSION:
            raise Invalid("triton.version", "is out of range", "use the number of the version's folder")
        if self.has_sequences and self.mode is not TritonMode.DIRECT:
            raise Invalid("triton.sequences", f"do not go with mode {self.mode}", "use mode direct, or remove it")
        if self.tls is not None:
            self._check_tls(self.tls)

    def _check_tls(self, tls: TritonTls) -> None:
        if self.mode is TritonMode.BRIDGE and tls.has_http:
            raise Invalid("triton.tls.http", "means nothing to a bridge, which asks over gRPC alone", "remove it")
        hosts = {server.host for server in self.servers}
        if not tls.server_name and len(hosts) == 1:
            object.__setattr__(self, "tls", replace(tls, server_name=hosts.pop()))
        elif not tls.server_name:
            raise Invalid(
                "triton.tls.server_name", "is missing", "say which name is in the certificates of all servers"
            )

    def __str__(self) -> str:
        """As a reference: triton://host:port/model/version."""
        first = self.servers[0]
        others = f"+{len(self.servers) - 1}" if len(self.servers) > 1 else ""
        version = f"/{self.version}" if self.version else ""
        return f"triton://{first.host}:{first.http_port}{others}/{self.model}{version}"

    @property
    def secured_by(self) -> tuple[object, ...]:
        """What is not in the repr of how it is reached."""
        return tuple(how for how in (self.tls, self.restricted) if how is not None)

    @property
    def is_grpc_only(self) -> bool:
        """Whether their HTTP ports are of no use."""
        return self.tls is not None and not self.tls.has_http

    @property
    def path(self) -> str:
        """Under which Triton's HTTP port answers for the model."""
        return f"/v2/models/{self.model}" + (f"/versions/{self.version}" if self.version else "")

    @property
    def version_name(self) -> str:
        """What clients call it when the spec gives it no other name."""
        return str(self.version) if self.version else hashlib.sha256(repr(self).encode()).hexdigest()[:12]
