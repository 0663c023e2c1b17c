"""How a listener finds the routes of a request: by the second and third segment of its path, among the scopes of what
it shows (its view).

The scopes of the default listener's view have no more than that in their keys. Those of the others have the listener's
name as well, which it sets on every request as a header. An endpoint that a listener does not show has no scope in its
view, so it finds the same as for one that there is not: nothing. What a listener shows changes for the connections that
are open, too, and no listener changes for it.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import config_source_pb2
from envoy.config.route.v3 import scoped_route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from router.xds.gateway import LISTENER_HEADER
from router.xds.names import ROUTES, Key
from router.xds.resources import Resource, resource

_FragmentBuilder = hcm_pb2.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder


def scoped_routes(*, by_header: bool = False) -> Any:
    """`by_header`: among the scopes of the view that `LISTENER_HEADER` names."""
    ads = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )
    return hcm_pb2.ScopedRoutes(
        name="endpoints",
        scope_key_builder=hcm_pb2.ScopedRoutes.ScopeKeyBuilder(
            fragments=[
                *([_extracted(name=LISTENER_HEADER, index=0)] if by_header else []),
                # /v2/models/fraud/…: "", "v2", "models", "fraud"
                *(_extracted(name=":path", element_separator="/", index=index) for index in (2, 3)),
            ]
        ),
        rds_config_source=ads,
        scoped_rds=hcm_pb2.ScopedRds(scoped_rds_config_source=ads),
    )


def scope(name: str, routes: str, segments: tuple[str, str], needs: frozenset[Key], view: str = "") -> Resource:
    """Requests whose second and third path segments are `segments` are answered by `routes`, in this view."""
    fragment = scoped_route_pb2.ScopedRouteConfiguration.Key.Fragment
    key = [*([view] if view else []), *segments]
    message = scoped_route_pb2.ScopedRouteConfiguration(
        name=name,
        route_configuration_name=routes,
        key=scoped_route_pb2.ScopedRouteConfiguration.Key(fragments=[fragment(string_key=text) for text in key]),
    )
    return resource(name, message, needs=needs, keeps=frozenset({Key(ROUTES, routes)}))


def _extracted(**how: Any) -> Any:
    return _FragmentBuilder(header_value_extractor=_FragmentBuilder.HeaderValueExtractor(**how))
