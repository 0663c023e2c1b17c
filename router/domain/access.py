"""Who may operate: operators' tokens, their roles, and the groups of endpoints that they may see and touch."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from router.domain.errors import Invalid
from router.domain.names import checked_name

TOKEN_PREFIX = "cfo_"  # tells secret scanners what they found


class Role(StrEnum):
    """What a token may do; each may what the one before it may."""

    VIEWER = "viewer"  # look
    OPERATOR = "operator"  # change endpoints, deployments, rollouts
    ADMIN = "admin"  # tokens, quotas, the audit log, and programs that run as the control plane does

    def includes(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Token:
    """An operator's token; only its hash is kept. `groups` empty: all endpoints. `expires_at` None: never."""

    name: str
    role: Role
    groups: tuple[str, ...]
    sha256: str
    created_at: datetime
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        checked_name("name", self.name)
        for group in self.groups:
            checked_name("groups", group)
        if list(self.groups) != sorted(set(self.groups)):
            raise Invalid("groups", "are not sorted, or one comes twice", "name every group once")
        if self.groups and self.role is Role.ADMIN:
            raise Invalid("role", "an admin's token is not limited to groups", "use the role operator or viewer")
        if self.expires_at is not None and self.expires_at <= self.created_at:
            raise Invalid("expires_at", "is over already", "use a time in the future")

    def is_valid(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True)
class Operator:
    """Who makes one call. `name` is what the audit log calls them."""

    name: str
    role: Role
    groups: tuple[str, ...] = ()

    def may(self, needed: Role) -> bool:
        return self.role.includes(needed)

    def sees(self, group: str) -> bool:
        """Whether endpoints of this group exist for them at all."""
        return not self.groups or group in self.groups


def new_secret() -> str:
    """256 bits of chance, so a plain hash of it cannot be reversed by guessing, and needs no salt."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
