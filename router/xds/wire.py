"""Wire: between the protocol's messages and the plain values of stream.py."""

from __future__ import annotations

from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from router.xds.stream import Request, Response


def decoded(message: Any) -> Request:
    """From a DeltaDiscoveryRequest."""
    return Request(
        type_url=message.type_url,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )


def encoded(response: Response) -> bytes:
    """To a serialized DeltaDiscoveryResponse."""
    message = discovery_pb2.DeltaDiscoveryResponse(
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
        resources=[
            discovery_pb2.Resource(
                name=resource.key.name,
                version=resource.version,
                resource=AnyMessage(type_url=resource.key.type_url, value=resource.body),
            )
            for resource in response.resources
        ],
    )
    return bytes(message.SerializeToString())
