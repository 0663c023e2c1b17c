"""How a listener finds the routes of a request: by the second and third segment of its path."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2


def scoped_routes() -> Any:
    fragment = hcm_pb2.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder
    ads = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )
    return hcm_pb2.ScopedRoutes(
        name="endpoints",
        scope_key_builder=hcm_pb2.ScopedRoutes.ScopeKeyBuilder(
            fragments=[
                fragment(
                    header_value_extractor=fragment.HeaderValueExtractor(
                        name=":path", element_separator="/", index=index
                    )
                )
                for index in (2, 3)  # /v2/models/fraud/…: "", "v2", "models", "fraud"
            ]
        ),
        rds_config_source=ads,
        scoped_rds=hcm_pb2.ScopedRds(scoped_rds_config_source=ads),
    )
