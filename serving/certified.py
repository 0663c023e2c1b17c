"""A replica's certificate, where Envoy is on another host: asked for before it listens, and again at half of its life.

Its key is made here, anew each time, and leaves the process never. A new certificate is for new connections; those that
are open keep theirs. Knows no Ray and no cryptography.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

from router.domain.errors import ModelUnavailable
from router.domain.replica_tls import CertificateRequest, Certified, Declined, ReplicaName
from router.domain.tls import BadCertificate

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 30.0
_ASK_AGAIN_AFTER_S = 1.0


class Keys(Protocol):
    """Implemented by adapters/replica_tls.py."""

    @property
    def context(self) -> ssl.SSLContext:
        """For servers of HTTP/1.1. Whoever has no certificate of the gateway itself is turned away."""

    @property
    def http2_context(self) -> ssl.SSLContext: ...

    def request(self, name: ReplicaName) -> bytes:
        """Make the next key, and a request to certify it."""

    def take(self, certified: Certified) -> None:
        """Put it in force. Raises `BadCertificate` when it is not for the key that was made last."""


class Desk(Protocol):
    """Where certificates are asked for. Never raises."""

    async def certified(self, request: CertificateRequest) -> Certified | Declined | None:
        """None: nobody has answered yet, ask again."""


Tell = Callable[[str], Awaitable[None]]


class CertifiedReplica:
    """Runs on one event loop."""

    def __init__(self, name: ReplicaName, desk: Desk, keys: Keys) -> None:
        self.name = name
        self.keys = keys
        self._desk = desk
        self._certified: Certified | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, tell: Tell) -> None:
        """Returns when there is a certificate, which is kept new from then on. Raises `ModelUnavailable` when the
        control plane declines."""
        while (reason := await self.renewed()) is not None:
            if reason:
                raise ModelUnavailable(f"the control plane gives this replica no certificate: {reason}")
            await tell("waiting for the control plane, which certifies replicas on other hosts")
            await asyncio.sleep(_ASK_AGAIN_AFTER_S)
        self._keeping = asyncio.create_task(self._keep(), name="certificate")

    def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()

    async def look(self, now: datetime) -> None:
        """Renew the certificate when that is due. What fails is tried again at the next look."""
        if self._certified is None or not self._certified.is_due(now):
            return
        reason = await self.renewed()
        if reason is not None:
            log.warning("the certificate could not be renewed: %s", reason or "the control plane does not answer")

    async def renewed(self) -> str | None:
        """None when there is a new certificate; else why not, or nothing when nobody has answered."""
        request = CertificateRequest(self.name, self.keys.request(self.name))
        match await self._desk.certified(request):
            case None:
                return ""
            case Declined(reason):
                return reason
            case Certified() as certified:
                try:
                    self.keys.take(certified)
                except BadCertificate as error:
                    return str(error)
                self._certified = certified
                log.info("certified until %s", certified.not_after)
                return None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.look(datetime.now(UTC))
            except Exception:  # whatever it is: without this task the replica would be cut off within a day
                log.exception("the certificate could not be renewed")
