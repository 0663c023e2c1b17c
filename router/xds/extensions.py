"""Filters whose configuration comes over a discovery stream of its own (ECDS): it changes without a change of the
listener, whose connections would drain."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from router.xds.resources import Resource, resource, type_url


def discovered_filter(name: str, kind: Any) -> Any:
    """Its configuration is the `extension` of this name, a message like `kind`. Envoy waits for it before it opens the
    listener."""
    ads = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )
    source = config_source_pb2.ExtensionConfigSource(config_source=ads, type_urls=[type_url(kind)])
    return hcm_pb2.HttpFilter(name=name, config_discovery=source)


def extension(name: str, config: Any) -> Resource:
    """`config`: packed."""
    return resource(name, extension_pb2.TypedExtensionConfig(name=name, typed_config=config))
