"""TLS between hosts: whom a certificate of the gateway's internal CA stands for, how it is asked for, and for how long
it is good.

There are two kinds of names, both URIs. `crossfade://<gateway>/envoy` may ask replicas (it is a client's); it is the
gateway's own. `crossfade://<gateway>/replica/<endpoint>/<deployment>/<replica>` may answer for that deployment (it is a
server's), at the address that stands beside it. No part contains a slash.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from router.domain.errors import Invalid
from router.domain.names import checked_name

CERTIFICATE_LIVES = timedelta(hours=24)

_REPLICA_ID = re.compile("[0-9a-f]{1,32}")


def canonical_ip(address: str) -> str:
    """An IP address has many spellings in IPv6, and names are compared as texts: certificates have this one. What is no
    IP address stays as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


@dataclass(frozen=True, slots=True)
class ReplicaName:
    """`replica`: its id. `ip`: where it listens, as `canonical_ip` spells it."""

    gateway: str
    endpoint: str
    deployment: str
    replica: str
    ip: str

    @property
    def uri(self) -> str:
        return f"{deployment_prefix(self.gateway, self.endpoint, self.deployment)}{self.replica}"

    def check(self) -> None:
        """Raises `Invalid`. What comes out of a pickle has passed no constructor."""
        checked_name("gateway", self.gateway)
        checked_name("endpoint", self.endpoint)
        checked_name("deployment", self.deployment)
        if not _REPLICA_ID.fullmatch(self.replica):
            raise Invalid("replica", f"{self.replica!r} is not the id of a replica", "")
        try:
            ipaddress.ip_address(self.ip)
        except ValueError:
            raise Invalid("ip", f"{self.ip!r} is not an IP address", "") from None


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """`signing_request`: PKCS #10 as PEM, with the same name in it, signed with the key that the replica keeps."""

    name: ReplicaName
    signing_request: bytes


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate, and the CA whose certificates are to be trusted, both as PEM."""

    chain: bytes
    authorities: bytes
    not_before: datetime
    not_after: datetime

    def is_due(self, now: datetime) -> bool:
        return is_due(self.not_before, self.not_after, now)


@dataclass(frozen=True, slots=True)
class Declined:
    """The control plane gives this one no certificate."""

    reason: str


def envoy_uri(gateway: str) -> str:
    return f"crossfade://{gateway}/envoy"


def replicas_prefix(gateway: str) -> str:
    """How the names of all replicas of a gateway begin."""
    return f"crossfade://{gateway}/replica/"


def deployment_prefix(gateway: str, endpoint: str, deployment: str) -> str:
    """How the names of all replicas of a deployment begin."""
    return f"{replicas_prefix(gateway)}{endpoint}/{deployment}/"


def is_due(not_before: datetime, not_after: datetime, now: datetime) -> bool:
    """Whether a new one is to be asked for: half of its life is left then, in which whoever signs may be away. So is
    one that is not good yet: the clock was set back since it was made."""
    return not not_before <= now < not_before + (not_after - not_before) / 2
