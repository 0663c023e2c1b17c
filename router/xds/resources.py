"""Resource: one xDS resource as bytes, with a version that is a hash of its content, and what it leans on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from envoy.config.core.v3 import base_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration

from router.xds.names import Key


@dataclass(frozen=True, slots=True)
class Resource:
    """`body` is the serialized message. Equal content has an equal version, in this process and the next.

    `needs`: the client must hold these before it gets this resource, and for as long as it holds it.
    `keeps`: the client asks for these because it holds this resource; they are not taken away before it.
    `is_makeshift`: what it should say is not known since this process began. A client that reconnects with one of any
    version keeps that; the makeshift is for those that have none. So it does with a cluster that keeps a makeshift.
    """

    key: Key
    version: str
    body: bytes
    needs: frozenset[Key] = frozenset()
    keeps: frozenset[Key] = frozenset()
    is_makeshift: bool = False

    def following(self, leader: Resource) -> Resource:
        """The same content with a version that also changes whenever `leader` changes.

        Envoy warms a changed cluster until it is told its endpoints, unchanged or not. stream.py sees to that, and the
        version to the case that the connection breaks in between.
        """
        return replace(self, version=_digest(leader.version.encode() + self.version.encode()))


def resource(
    name: str,
    message: Any,
    *,
    needs: frozenset[Key] = frozenset(),
    keeps: frozenset[Key] = frozenset(),
) -> Resource:
    body = message.SerializeToString(deterministic=True)
    return Resource(Key(type_url(message), name), _digest(body), body, needs, keeps)


def packed(message: Any) -> Any:
    """The message as a protobuf Any whose bytes are the same every time."""
    return AnyMessage(type_url=type_url(message), value=message.SerializeToString(deterministic=True))


def overwritten(header: str, value: str) -> Any:
    """A header that has this value and no other."""
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=header, value=value),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def type_url(message: Any) -> str:
    return f"type.googleapis.com/{message.DESCRIPTOR.full_name}"


def seconds(value: float) -> Any:
    return milliseconds(round(value * 1000))


def milliseconds(value: int) -> Any:
    duration = Duration()
    duration.FromTimedelta(timedelta(milliseconds=value))
    return duration


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
