"""Room: how large a request may be whose endpoint is not known yet, so that Envoy gathers no more of it than the most
that some endpoint accepts.

A gRPC call names its endpoint in its body, which anybody may send. The room is what the largest deployment of all
endpoints takes. It grows with an endpoint, and is sent before its routes (`names.SEND_ORDER`). It shrinks after them:
what an endpoint took before counts until every Envoy has confirmed what it takes now.
"""

from __future__ import annotations

from router.domain.deployment_settings import MIB
from router.domain.routing import Routing

_LEAST_BYTES = MIB  # as much as of a call about the server


class Room:
    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: it is never larger."""
        self._most = most_bytes
        self._wanted: dict[str, int] = {}  # endpoint -> the bytes that the largest of its deployments takes
        self._before: dict[str, int] = {}  # endpoint -> what it took before, where that is more

    @property
    def max_bytes(self) -> int:
        largest = max(max(kept.values(), default=_LEAST_BYTES) for kept in (self._wanted, self._before))
        return min(self._most, max(_LEAST_BYTES, largest))

    @property
    def receding(self) -> tuple[str, ...]:
        """The endpoints that took more before."""
        return tuple(self._before)

    def set_endpoint(self, routing: Routing) -> None:
        self._change(routing.endpoint, max((upstream.max_request_bytes for upstream in routing.upstreams), default=0))

    def remove_endpoint(self, name: str) -> None:
        self._change(name, 0)
        self._wanted.pop(name, None)

    def recede(self, name: str) -> None:
        """What the endpoint took before is in force nowhere any more."""
        self._before.pop(name, None)

    def _change(self, name: str, max_bytes: int) -> None:
        before = max(self._wanted.get(name, 0), self._before.pop(name, 0))
        self._wanted[name] = max_bytes
        if before > max_bytes:
            self._before[name] = before
