"""Endpoint: the stable public name that clients call, and its state: the endpoint with every deployment behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from router.domain.deployment import DeployedModel
from router.domain.errors import Conflict, Invalid, NotFound
from router.domain.limits import NO_LIMITS, Limits
from router.domain.listening import Clients, checked_network
from router.domain.names import RESERVED_ENDPOINT_NAMES, checked_client_name, checked_name
from router.domain.sticky import Sticky
from router.domain.tokens import TokenRules
from router.domain.traffic import Mirror, Traffic
from router.domain.watching import Watch


class AuthMode(StrEnum):
    NONE = "none"  # everybody
    KEY = "key"  # whoever shows one of its keys
    MTLS = "mtls"  # whoever shows a certificate with one of `client_names`
    JWT = "jwt"  # whoever shows a token after the rules in `jwt`


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The stable public name that clients call, and how its traffic is split."""

    name: str
    traffic: Traffic = field(default_factory=Traffic)
    mirror: Mirror | None = None
    auth_mode: AuthMode = AuthMode.NONE
    allow_anonymous: bool = False
    sticky: Sticky | None = None
    client_names: tuple[str, ...] = ()
    jwt: TokenRules | None = None
    group: str = ""  # the team that it belongs to; empty: nobody's in particular
    watch: Watch | None = None
    limits: Limits = NO_LIMITS
    allow_clients: tuple[str, ...] = ()  # networks, sorted; empty: everybody
    deny_clients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_name("name", self.name)
        if self.group:
            checked_name("group", self.group)
        self._check_clients()
        if self.name in RESERVED_ENDPOINT_NAMES:
            raise Invalid("name", f"{self.name!r} is reserved by the protocol", "choose another name")
        if self.mirror is not None and self.traffic.percent(self.mirror.deployment) > 0:
            raise Invalid(
                f"mirror_traffic.{self.mirror.deployment}",
                f"{self.mirror.deployment!r} already has live traffic",
                "mirror to a deployment whose traffic is 0",
            )

    @property
    def clients(self) -> Clients:
        """Whose requests are taken, by their address."""
        return Clients(self.allow_clients, self.deny_clients)

    def _check_clients(self) -> None:
        for key, networks in (("allow_clients", self.allow_clients), ("deny_clients", self.deny_clients)):
            for network in networks:
                checked_network(key, network)
        for name in self.client_names:
            checked_client_name("client_names", name)
        if self.auth_mode is AuthMode.MTLS and not self.client_names:
            raise Invalid(
                "client_names", "auth_mode mtls lets nobody in without them", "name the clients' certificates"
            )
        if self.client_names and self.auth_mode is not AuthMode.MTLS:
            raise Invalid("client_names", f"mean nothing to auth_mode {self.auth_mode}", "set auth_mode: mtls")
        if self.limits.per_caller is not None and self.auth_mode is AuthMode.NONE:
            message = "auth_mode none cannot tell callers apart"
            raise Invalid("limits.per_caller", message, "set another auth_mode, or limit all of them together")
        if self.auth_mode is AuthMode.JWT and self.jwt is None:
            raise Invalid("jwt", "auth_mode jwt lets nobody in without it", "say whose tokens are taken")
        if self.jwt is not None and self.auth_mode is not AuthMode.JWT:
            raise Invalid("jwt", f"means nothing to auth_mode {self.auth_mode}", "set auth_mode: jwt")


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An endpoint, everything behind it, and the revision that counts its changes: the unit that is stored whole."""

    endpoint: Endpoint
    deployments: Mapping[str, DeployedModel] = field(default_factory=lambda: MappingProxyType({}))
    revision: int = 0

    def __post_init__(self) -> None:
        named = self.endpoint.traffic.deployments
        if self.endpoint.mirror is not None:
            named |= {self.endpoint.mirror.deployment}
        for name in sorted(named - self.deployments.keys()):
            raise Invalid(
                f"traffic.{name}",
                f"endpoint {self.endpoint.name!r} has no deployment {name!r}",
                f"it has {', '.join(sorted(self.deployments)) or 'none yet'}",
            )

    def deployment(self, name: str) -> DeployedModel:
        try:
            return self.deployments[name]
        except KeyError:
            raise NotFound("deployment", name, tuple(sorted(self.deployments))) from None

    def with_endpoint(self, endpoint: Endpoint) -> EndpointState:
        return replace(self, endpoint=endpoint)

    def with_deployment(self, deployed: DeployedModel) -> EndpointState:
        return replace(self, deployments=MappingProxyType({**self.deployments, deployed.spec.name: deployed}))

    def without_deployment(self, name: str) -> EndpointState:
        """Raises `NotFound`, or `Conflict` while the deployment has live or mirrored traffic."""
        self.deployment(name)
        percent = self.endpoint.traffic.percent(name)
        if percent:
            raise Conflict(f"deployment {name!r} has {percent}% of the traffic: move it away first")
        if self.endpoint.mirror is not None and self.endpoint.mirror.deployment == name:
            raise Conflict(f"deployment {name!r} gets mirrored traffic: remove the mirror first")
        rest = {key: value for key, value in self.deployments.items() if key != name}
        return replace(self, deployments=MappingProxyType(rest))
