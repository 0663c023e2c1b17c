"""Snapshot: the configuration that every Envoy shall have, as resources in groups: one per endpoint, one for the
listeners, one for the rest.

Only the group that changes is built again, and within it only what depends on what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from router.domain.listening import DEFAULT, Offer
from router.domain.routing import Routing, Upstream
from router.domain.tls import Secret
from router.domain.triton_token import TritonToken
from router.xds.clusters import deployment_clusters, reached_by, shield_clusters
from router.xds.endpoints import addresses_of
from router.xds.gateway import Gateway
from router.xds.hot_path import NAMED_BOUND, named_bound
from router.xds.listeners import default_offer, scoring_listener
from router.xds.mirror_listener import mirror_cluster, mirror_listener
from router.xds.names import CLUSTER, ENDPOINTS, GATEWAY_GROUP, MIRROR_VIEW, SCOPE, Key, view_name
from router.xds.redirect_listener import redirect_listener
from router.xds.resources import Resource
from router.xds.room import Room
from router.xds.routes import endpoint_routes, endpoint_scope
from router.xds.views import View

_LISTENERS = "@listeners"  # no endpoint's name


class Snapshot:
    """Methods that change it return the keys of the resources that are now different, new or gone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._wanted: dict[Key, Resource] = {}
        self._groups: dict[str, frozenset[Key]] = {}
        self._routings: dict[str, Routing] = {}
        self._tokens: dict[TritonToken, Secret] = {}
        self._offers: tuple[Offer, ...] = ()
        self._views: dict[str, View] = {}
        self._room = Room(gateway.max_request_bytes)
        self._bound_bytes = self._room.max_bytes
        bound = named_bound(self._bound_bytes)
        self._replace(GATEWAY_GROUP, [mirror_cluster(gateway), mirror_listener(), bound])
        self.set_listeners((default_offer(gateway),))

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
        self._room.set_endpoint(routing)
        return changed | self._show(before, routing) | self._bound()

    def remove_endpoint(self, name: str) -> frozenset[Key]:
        before = self._routings.pop(name, None)
        if before is None:
            return frozenset()
        changed = self._replace(name, [])
        del self._groups[name]
        self._room.remove_endpoint(name)
        return changed | self._show(before, None) | self._bound()

    @property
    def receding(self) -> tuple[str, ...]:
        """The endpoints of which larger requests were taken before, for which there still is room (room.py)."""
        return self._room.receding

    def recede(self, name: str) -> frozenset[Key]:
        """Every Envoy has confirmed what the endpoint takes now."""
        self._room.recede(name)
        return self._bound()

    def _bound(self) -> frozenset[Key]:
        max_bytes = self._room.max_bytes
        if max_bytes == self._bound_bytes:
            return frozenset()
        self._bound_bytes = max_bytes
        self._wanted[NAMED_BOUND] = named_bound(max_bytes)
        return frozenset({NAMED_BOUND})

    def set_listeners(self, offers: tuple[Offer, ...]) -> frozenset[Key]:
        """What was shown by a listener that is gone is kept until `forget_listeners`: its connections are still there,
        and may have one more request on its way."""
        self._offers = offers
        for offer in offers:
            name = view_name(offer)
            if name not in self._views or self._views[name].visible != offer.visible:
                self._views[name] = View(self._gateway, name, offer.visible, self._routings.values())
        return self._put_listeners()

    def forget_listeners(self) -> frozenset[Key]:
        current = {view_name(offer) for offer in self._offers}
        self._views = {name: view for name, view in self._views.items() if name in current}
        return self._put_listeners()

    def _put_listeners(self) -> frozenset[Key]:
        resources = [scoring_listener(self._gateway, offer) for offer in self._offers]
        if self._gateway.redirect_port:
            resources += [redirect_listener(self._gateway, offer) for offer in self._offers if offer.name == DEFAULT]
        for view in self._views.values():
            resources += view.resources()
        changed = self._replace(_LISTENERS, resources)
        for name, routing in self._routings.items():
            others = [self._wanted[key] for key in self._groups[name] if key.type_url != SCOPE]
            changed |= self._replace(name, [*others, *self._scopes(routing)])
        return changed

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

    def set_token(self, token: TritonToken, value: Secret) -> frozenset[Key]:
        """What is shown to the Tritons that want to see it. Their clusters, and so their connections, stay."""
        self._tokens[token] = value
        changed: frozenset[Key] = frozenset()
        for name, routing in self._routings.items():
            if any(upstream.token == token for upstream in routing.upstreams):
                changed |= self._replace(name, self._built(routing, None))
        return changed

    def keep_tokens(self, wanted: Iterable[TritonToken]) -> None:
        """Forget all others. Whoever has one of them keeps it until its deployment is gone or changed."""
        self._tokens = {token: self._tokens[token] for token in wanted if token in self._tokens}

    def _shown_to(self, upstream: Upstream) -> Secret | None:
        return self._tokens.get(upstream.token) if upstream.token else None

    def _built(self, routing: Routing, before: Routing | None) -> list[Resource]:
        known = {upstream.deployment: upstream for upstream in before.upstreams} if before else {}
        resources = [*self._scopes(routing), endpoint_routes(routing, self._gateway)]
        for upstream in routing.upstreams:
            if known.get(upstream.deployment) == upstream:
                names = {reached_by(routing.endpoint, upstream, is_grpc=is_grpc) for is_grpc in (False, True)}
                resources += [self._wanted[Key(kind, name)] for kind in (CLUSTER, ENDPOINTS) for name in sorted(names)]
            else:
                clusters = deployment_clusters(routing.endpoint, upstream, self._gateway)
                for cluster, is_grpc_port in zip(clusters, upstream.ports, strict=True):
                    shown = self._shown_to(upstream)
                    addresses = addresses_of(cluster, upstream, shown, is_grpc_port=is_grpc_port)
                    if upstream.token and shown is None:  # not read yet, or broken: who has one keeps that until then
                        addresses = self._wanted.get(addresses.key, replace(addresses, is_makeshift=True))
                    resources += [cluster, addresses]
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

    def _scopes(self, routing: Routing) -> list[Resource]:
        names = [view.name for view in self._views.values() if view.shows(routing)]
        return [endpoint_scope(routing, name) for name in [*names, *([MIRROR_VIEW] if routing.mirror else [])]]

    def _show(self, before: Routing | None, after: Routing | None) -> frozenset[Key]:
        """Views tell who stands in for the control plane, which depends on what they show."""
        changed = set()
        for view in self._views.values():
            if (addresses := view.replace(before, after)) is not None:
                self._wanted[addresses.key] = addresses
                changed.add(addresses.key)
        return frozenset(changed)
