"""What no plan may break: the demands of the gateway's surroundings, and that no traffic goes to what is stopped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.domain.endpoint import AuthMode, Endpoint, EndpointState
from router.domain.errors import Invalid
from router.domain.listening import Offer, exposed


@dataclass(frozen=True, slots=True)
class Rules:
    """What the gateway's surroundings demand of every endpoint."""

    offers: tuple[Offer, ...] = ()  # where scoring is offered
    verifies_clients: bool = False  # listeners ask clients for certificates

    def broken_by(self, endpoint: Endpoint) -> Invalid | None:
        if endpoint.auth_mode is AuthMode.NONE and not endpoint.allow_anonymous:
            for offer in exposed(self.offers, endpoint.name, endpoint.group):
                return Invalid(
                    "auth_mode",
                    f"everybody on the network could call {endpoint.name!r}: listener {offer.name!r} offers it beyond "
                    "this machine",
                    "set allow_anonymous: true when that is what you want, or keep it from that listener",
                )
        if endpoint.auth_mode is AuthMode.MTLS and not self.verifies_clients:
            return Invalid(
                "auth_mode",
                f"nobody could call {endpoint.name!r}: this gateway takes no certificates from clients",
                "start it with --tls-client-ca FILE",
            )
        return None


def overheard(offers: Iterable[Offer], endpoint: str, group: str, auth_mode: AuthMode) -> list[str]:
    """Warnings, one for each listener where callers would say their credentials aloud."""
    credentials = {AuthMode.KEY: "keys", AuthMode.JWT: "tokens"}.get(auth_mode)
    if credentials is None:
        return []
    return [
        f"endpoint {endpoint!r} takes {credentials} in clear text at listener {offer.name!r} ({offer.address}): "
        "whoever can read along on that network can use them; give the listener TLS (crossfade tls init, or "
        "--tls-certificate), or keep the endpoint from it (kind: Gateway)"
        for offer in offers
        if offer.is_overheard and offer.shows(endpoint, group)
    ]


def stopped_with_traffic(state: EndpointState) -> list[str]:
    return [
        name for name in sorted(state.endpoint.traffic.deployments) if state.deployments[name].spec.least_instances == 0
    ]


def stopped_words(state: EndpointState, name: str) -> tuple[str, str]:
    percent = state.endpoint.traffic.percent(name)
    return f"deployment {name!r} would have {percent}% of the traffic and no replica", "move the traffic away first"
