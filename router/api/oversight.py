"""Routes for admins: operators' tokens, quotas, the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from router.access import Access
from router.api.operator import Caller
from router.api.shape import Shape
from router.domain.access import Role, Token
from router.domain.audit import GENESIS, Link, first_broken
from router.domain.quota import Quota, Usage
from router.ports import AuditLog
from router.quotas import Quotas

_AT_ONCE = 1000  # lines that are verified between two looks at anything else


@dataclass(frozen=True, slots=True)
class Oversight:
    """What admins watch and decide."""

    access: Access
    quotas: Quotas
    audit: AuditLog


class TokenRequest(Shape):
    name: str = Field(description="What the audit log calls whoever uses it.", examples=["ci-fraud"])
    role: Role = Field(default=Role.OPERATOR, description="viewer: look. operator: change. admin: everything.")
    groups: list[str] = Field(default_factory=list, description="Only endpoints of these groups. Empty: all.")
    valid_for_s: float | None = Field(default=None, gt=0, le=1e10, description="Left out: it never expires.")


class TokenView(Shape):
    name: str
    role: Role
    groups: list[str]
    created_at: datetime
    expires_at: datetime | None


class NewTokenView(TokenView):
    secret: str = Field(description="Shown this once: only its hash is kept.")


class TokensView(Shape):
    tokens: list[TokenView]


class QuotaRequest(Shape):
    """A limit that is left out does not exist."""

    deployments: int | None = None
    replicas: int | None = None
    cpus: float | None = None
    gpus: float | None = None


class UsageView(Shape):
    deployments: int
    replicas: int
    cpus: float
    gpus: float


class QuotaView(Shape):
    group: str
    quota: QuotaRequest
    usage: UsageView = Field(description="With the most replicas that the deployments of the group may have.")


class QuotasView(Shape):
    quotas: list[QuotaView]


class AuditLineView(Shape):
    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str
    previous: str
    hash: str


class AuditView(Shape):
    lines: list[AuditLineView]


class VerifiedView(Shape):
    is_whole: bool
    lines: int = Field(description="How many were looked at.")
    head: str = Field(description="Hash of the last line: note it elsewhere, to see later that nothing was cut off.")
    broken_at: int | None
    reason: str


def oversight_routes(oversight: Oversight) -> APIRouter:
    routes = APIRouter(tags=["oversight"])
    access, quotas, audit = oversight.access, oversight.quotas, oversight.audit

    @routes.get("/tokens")
    async def tokens() -> TokensView:
        """Every operator's token, without its secret. The one in the data directory is not among them."""
        return TokensView(tokens=[_token(token) for token in access.tokens])

    @routes.post("/tokens")
    async def create(request: TokenRequest, by: Caller) -> NewTokenView:
        """Make a token. Its secret is in this reply and nowhere else."""
        valid_for = timedelta(seconds=request.valid_for_s) if request.valid_for_s else None
        token, secret = access.create(request.name, request.role, request.groups, valid_for, by)
        return NewTokenView(**_token(token).model_dump(), secret=secret)

    @routes.delete("/tokens/{name}")
    async def revoke(name: str, by: Caller) -> TokenView:
        """It is refused from now on."""
        return _token(access.revoke(name, by))

    @routes.get("/quotas")
    async def all_quotas() -> QuotasView:
        """Every group of endpoints, what it may use and what it uses."""
        return QuotasView(quotas=[_quota(group, quota, usage) for group, (quota, usage) in quotas.all.items()])

    @routes.put("/quotas/{group}")
    async def set_quota(group: str, request: QuotaRequest, by: Caller) -> QuotaView:
        """Limit what the endpoints of a group use together. What runs already stays."""
        quotas.set(group, Quota(**request.model_dump()), by)
        return _quota(group, *quotas.all[group])

    @routes.delete("/quotas/{group}")
    async def remove_quota(group: str, by: Caller) -> QuotasView:
        """Remove the limits of a group."""
        quotas.remove(group, by)
        return await all_quotas()

    @routes.get("/audit")
    async def lines(
        after: Annotated[int | None, Query(ge=0, description="Only lines with a greater number, oldest first.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> AuditView:
        """Who did what, oldest first: the last lines, or those that follow `after`."""
        if after is None:
            found = await asyncio.to_thread(audit.last_lines, limit)
        else:
            found = await asyncio.to_thread(audit.lines, after, limit)
        return AuditView(lines=_lines(found))

    @routes.get("/audit/verified")
    async def verified() -> VerifiedView:
        """Go through the whole chain of hashes: was a line altered, removed or slipped in?"""
        last: Link | None = None
        while links := await asyncio.to_thread(audit.lines, last.number if last else 0, _AT_ONCE):
            if broken := first_broken(links, last):
                head = last.hash if last else GENESIS
                return VerifiedView(
                    is_whole=False, lines=broken.number, head=head, broken_at=broken.number, reason=broken.reason
                )
            last = links[-1]
        count, head = (last.number, last.hash) if last else (0, GENESIS)
        return VerifiedView(is_whole=True, lines=count, head=head, broken_at=None, reason="")

    return routes


def _token(token: Token) -> TokenView:
    return TokenView(
        name=token.name,
        role=token.role,
        groups=list(token.groups),
        created_at=token.created_at,
        expires_at=token.expires_at,
    )


def _quota(group: str, quota: Quota, usage: Usage) -> QuotaView:
    return QuotaView(
        group=group,
        quota=QuotaRequest(deployments=quota.deployments, replicas=quota.replicas, cpus=quota.cpus, gpus=quota.gpus),
        usage=UsageView(deployments=usage.deployments, replicas=usage.replicas, cpus=usage.cpus, gpus=usage.gpus),
    )


def _lines(links: Iterable[Link]) -> list[AuditLineView]:
    return [
        AuditLineView(
            number=link.number,
            at=link.record.at,
            actor=link.record.actor,
            action=link.record.action,
            subject=link.record.subject,
            detail=link.record.detail,
            previous=link.previous,
            hash=link.hash,
        )
        for link in links
    ]
