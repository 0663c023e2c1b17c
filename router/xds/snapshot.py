"""Snapshot: the configuration that every Envoy shall have, as resources in groups: one per endpoint, one for the rest.

Only the group that changes is built again, and within it only what depends on what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from router.domain.callers import Anyone
from router.domain.routing import Address, Routing, TritonAddress
from router.xds.clusters import deployment_clusters, reached_by, server_cluster, shield_clusters
from router.xds.endpoints import Standby, addresses_of, server_addresses
from router.xds.gateway import Gateway
from router.xds.listeners import gateway_listener
from router.xds.mirror_listener import mirror_cluster, mirror_listener
from router.xds.names import CLUSTER, ENDPOINTS, GATEWAY_GROUP, Key
from router.xds.redirect_listener import redirect_listener
from router.xds.resources import Resource
from router.xds.routes import endpoint_routes, endpoint_scope
from router.xds.server_routes import server_routes, server_scopes


class Snapshot:
    """Methods that change it return the keys of the resources that are now different, new or gone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._wanted: dict[Key, Resource] = {}
        self._groups: dict[str, frozenset[Key]] = {}
        self._routings: dict[str, Routing] = {}
        self._standby = Standby()
        self._server_cluster = server_cluster(gateway)
        self._replace(
            GATEWAY_GROUP,
            [
                self._server_cluster,
                self._server_addresses(),
                mirror_cluster(gateway),
                mirror_listener(),
                gateway_listener(gateway),
                server_routes(gateway),
                *server_scopes(),
                *([redirect_listener(gateway)] if gateway.redirect_port else []),
            ],
        )

    @property
    def wanted(self) -> Mapping[Key, Resource]:
        """A live view."""
        return MappingProxyType(self._wanted)

    def set_endpoint(self, routing: Routing) -> frozenset[Key]:
        before = self._routings.get(routing.endpoint)
        if before == routing:
            return frozenset()
        self._routings[routing.endpoint] = routing
        changed = self._replace(routing.endpoint, self._built(routing, before))
        return changed | self._move_standby(before, routing)

    def remove_endpoint(self, name: str) -> frozenset[Key]:
        before = self._routings.pop(name, None)
        if before is None:
            return frozenset()
        changed = self._replace(name, [])
        del self._groups[name]
        return changed | self._move_standby(before, None)

    def set_secret(self, secret: Resource) -> frozenset[Key]:
        if self._wanted.get(secret.key) == secret:
            return frozenset()
        self._wanted[secret.key] = secret
        self._groups[GATEWAY_GROUP] |= {secret.key}
        return frozenset({secret.key})

    def remove_secrets(self, keys: frozenset[Key]) -> frozenset[Key]:
        gone = keys & self._wanted.keys()
        for key in gone:
            del self._wanted[key]
        self._groups[GATEWAY_GROUP] -= gone
        return gone

    def _built(self, routing: Routing, before: Routing | None) -> list[Resource]:
        known = {upstream.deployment: upstream for upstream in before.upstreams} if before else {}
        resources = [endpoint_scope(routing), endpoint_routes(routing, self._gateway)]
        for upstream in routing.upstreams:
            if known.get(upstream.deployment) == upstream:
                names = {reached_by(routing.endpoint, upstream, is_grpc=is_grpc) for is_grpc in (False, True)}
                resources += [self._wanted[Key(kind, name)] for kind in (CLUSTER, ENDPOINTS) for name in sorted(names)]
            else:
                clusters = deployment_clusters(routing.endpoint, upstream, self._gateway)
                for cluster, is_grpc_port in zip(clusters, upstream.ports, strict=True):
                    resources += [cluster, addresses_of(cluster, upstream, is_grpc_port=is_grpc_port)]
        if routing.shield is not None:
            resources += shield_clusters(routing, routing.shield, self._gateway)
        return resources

    def _replace(self, group: str, resources: Iterable[Resource]) -> frozenset[Key]:
        after = {resource.key: resource for resource in resources}
        gone = self._groups.get(group, frozenset()) - after.keys()
        changed = {key for key, resource in after.items() if self._wanted.get(key) != resource}
        for key in gone:
            del self._wanted[key]
        self._wanted.update(after)
        self._groups[group] = frozenset(after)
        return frozenset(changed | gone)

    def _move_standby(self, before: Routing | None, after: Routing | None) -> frozenset[Key]:
        chosen = self._standby.chosen()
        self._standby.replace(_addresses(before), _addresses(after))
        if self._standby.chosen() == chosen:
            return frozenset()
        addresses = self._server_addresses()
        self._wanted[addresses.key] = addresses
        return frozenset({addresses.key})

    def _server_addresses(self) -> Resource:
        return server_addresses(self._server_cluster, self._gateway.server_socket, self._standby.chosen())


def _addresses(routing: Routing | None) -> frozenset[Address]:
    # Whoever answers for protected endpoints tells nobody their names.
    if routing is None or routing.access != Anyone():
        return frozenset()
    # A waiting room is the control plane's own: it cannot stand in for it. A Triton would speak of itself.
    replicas = (upstream.addresses for upstream in routing.upstreams if not upstream.is_held)
    return frozenset(
        address for addresses in replicas for address in addresses if not isinstance(address, TritonAddress)
    )
