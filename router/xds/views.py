"""View: what a listener shows of the endpoints, and who answers the calls about the server that come in there.

The control plane reads from a header by which listener a call came. While it is down, replicas stand in for it, which
speak of their own endpoint: so a view has only those of endpoints that it shows.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.domain.callers import Anyone
from router.domain.listening import Visible, shows
from router.domain.routing import Address, Routing, TritonAddress
from router.xds.clusters import server_cluster
from router.xds.endpoints import Standby, server_addresses
from router.xds.gateway import Gateway
from router.xds.resources import Resource
from router.xds.server_routes import server_routes, server_scopes


class View:
    def __init__(self, gateway: Gateway, name: str, visible: Visible, routings: Iterable[Routing]) -> None:
        self.name = name
        self.visible = visible
        self._socket = gateway.server_socket
        self._cluster = server_cluster(gateway, name)
        self._others = [self._cluster, server_routes(gateway, name), *server_scopes(name)]
        self._standby = Standby()
        for routing in routings:
            self._standby.replace((), self._addresses(routing))

    def shows(self, routing: Routing) -> bool:
        return shows(self.visible, routing.endpoint, routing.group)

    def resources(self) -> list[Resource]:
        return [*self._others, self._server_addresses()]

    def replace(self, before: Routing | None, after: Routing | None) -> Resource | None:
        """The endpoint has changed. Returns the addresses of the server when they have, too."""
        chosen = self._standby.chosen()
        self._standby.replace(self._addresses(before), self._addresses(after))
        return None if self._standby.chosen() == chosen else self._server_addresses()

    def _server_addresses(self) -> Resource:
        return server_addresses(self._cluster, self._socket, self._standby.chosen())

    def _addresses(self, routing: Routing | None) -> frozenset[Address]:
        # Whoever answers for protected endpoints tells nobody their names.
        if routing is None or not self.shows(routing) or routing.access != Anyone() or not routing.clients.is_everybody:
            return frozenset()
        # A waiting room is the control plane's own: it cannot stand in for it. A Triton would speak of itself.
        replicas = (upstream.addresses for upstream in routing.upstreams if not upstream.is_held)
        return frozenset(
            address for addresses in replicas for address in addresses if not isinstance(address, TritonAddress)
        )
