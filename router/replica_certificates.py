"""TLS to replicas on other hosts: the gateway's own certificate is renewed at half of its life, and replicas that ask
for one get one.

Who may ask: whoever can talk to the directory of replicas, which takes the Ray cluster's token. That token runs any
code on any of its machines, those of replicas as well, so no finer check could hold against its holder. What is
checked bounds what a mistake can do: a certificate is for a deployment that is wanted, for the name and address that
its key's holder signed for, to answer and never to ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Protocol

from router.domain.endpoint import EndpointState
from router.domain.replica_tls import CertificateRequest, Certified, Declined, is_due
from router.domain.tls import BadCertificate, CertificatePair, ClientTrust

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 30.0


class Authority(Protocol):
    """The internal CA. Implemented by adapters/internal_authority.py."""

    @property
    def trust(self) -> ClientTrust: ...

    def look(self, now: datetime) -> str:
        """Let one CA follow another. Returns why that cannot be done, if so; what was in force stays."""

    def for_envoy(self, now: datetime) -> CertificatePair: ...

    def stands_for(self, pair: CertificatePair) -> bool:
        """Whether one that is trusted has signed it."""

    def for_replica(self, request: CertificateRequest, now: datetime) -> Certified:
        """Raises `BadCertificate`, which says why not."""


class Secrets(Protocol):
    """Who asks replicas. Implemented by router/xds/server.py and adapters/tls_client.py."""

    def set_replica_tls(self, pair: CertificatePair, trust: ClientTrust) -> None:
        """What is shown to replicas, and whom they must be certified by. Connections that are open stay."""


class ReplicaCertificates:
    """Belongs to one event loop. `states` is a live view."""

    def __init__(
        self,
        authority: Authority,
        secrets: Iterable[Secrets],
        states: Mapping[str, EndpointState],
        now: Callable[[], datetime],
    ) -> None:
        self._authority = authority
        self._secrets = tuple(secrets)
        self._states = states
        self._now = now
        self._shown: CertificatePair | None = None
        self._trusted: ClientTrust | None = None
        self._refused = ""

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    def look(self) -> None:
        """Renew the gateway's own certificate when that is due or its CA is gone, and tell whom to trust when that has
        changed."""
        now = self._now()
        if (refused := self._authority.look(now)) != self._refused:
            self._refused = refused
            log.warning("the internal CA: %s", refused or "it is in order again")
        trust, pair = self._authority.trust, self._shown
        if pair is None or not self._is_good(pair, now):
            pair = self._authority.for_envoy(now)
            log.info("the certificate that is shown to replicas is new", extra={"not_after": str(pair.facts.not_after)})
        elif trust == self._trusted:
            return
        for secrets in self._secrets:
            secrets.set_replica_tls(pair, trust)
        self._shown, self._trusted = pair, trust

    def _is_good(self, pair: CertificatePair, now: datetime) -> bool:
        """A CA that is brought back from a backup has not signed what is shown."""
        return not is_due(pair.facts.not_before, pair.facts.not_after, now) and self._authority.stands_for(pair)

    def answer(self, request: CertificateRequest) -> Certified | Declined:
        name = request.name
        state = self._states.get(name.endpoint)
        if state is None or name.deployment not in state.deployments:
            return self._declined(request, f"there is no deployment {name.endpoint}/{name.deployment}")
        try:
            certified = self._authority.for_replica(request, self._now())
        except BadCertificate as error:
            return self._declined(request, str(error))
        log.info("certified a replica", extra={"replica": name.uri, "ip": name.ip})
        return certified

    def _declined(self, request: CertificateRequest, reason: str) -> Declined:
        log.warning("a replica gets no certificate", extra={"replica": request.name.uri, "reason": reason})
        return Declined(reason)
