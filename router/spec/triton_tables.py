"""The keys of a deployment's `triton` block."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from router.domain.triton import (
    HOST_PATTERN,
    MAX_SERVERS,
    MAX_VERSION,
    TRITON_MODEL_PATTERN,
    RunningTriton,
    TritonMode,
    TritonServer,
)
from router.spec.nodes import Node, ScalarNode, describe
from router.spec.reading import WRONG, At
from router.spec.rollout_values import ListOf, Maybe
from router.spec.sections import Key, Section
from router.spec.triton_modes import OF_MANAGED, refused_mode
from router.spec.triton_tls_tables import TRITON_TLS
from router.spec.triton_token_tables import TRITON_TOKEN
from router.spec.values import Flag, OneOf, Whole


@dataclass(frozen=True, slots=True)
class Matching:
    """Text of a certain form, which is never empty: that means that none is given. `meaning` says what it is, `example`
    shows one."""

    pattern: str
    meaning: str
    example: str

    def read(self, node: Node, at: At) -> Any:
        value = node.value if isinstance(node, ScalarNode) else None
        if not isinstance(value, str):
            return at.wrong(node, f"must be {self.meaning}, not {describe(node)}", f"such as {self.example}")
        if not re.fullmatch(self.pattern, value):
            return at.wrong(node, f"{value[:60]!r} is not {self.meaning}", f"such as {self.example}")
        return value

    def plain(self, value: str) -> Any:
        return value or None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self.pattern}$"}


@dataclass(frozen=True, slots=True)
class VersionNumber:
    """A version of Triton's: a whole number, also in quotes. 0 in the domain means that none is given."""

    def read(self, node: Node, at: At) -> Any:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and re.fullmatch("[1-9][0-9]{0,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VERSION:
            allowed = "use the number of the version's folder in Triton's model repository, such as 1"
            return at.wrong(node, f"must be a version's number, not {describe(node)}", allowed)
        return value

    def plain(self, value: int) -> Any:
        return str(value) if value else None

    def schema(self) -> dict[str, Any]:
        number = {"type": "integer", "minimum": 1, "maximum": MAX_VERSION}
        return {"anyOf": [{"type": "string", "pattern": "^[1-9][0-9]{0,18}$"}, number]}


_SERVER = Section(
    TritonServer,
    (
        Key(
            "host",
            "host",
            Matching(HOST_PATTERN, "a host's name or IPv4 address", "10.0.0.7; ports are keys of their own"),
            "Its name or IPv4 address.",
            is_required=True,
        ),
        Key("http_port", "http_port", Whole(1, 65535), "The port of its HTTP endpoint."),
        Key("grpc_port", "grpc_port", Whole(1, 65535), "The port of its gRPC endpoint."),
    ),
)

_TRITON = Section(
    RunningTriton,
    (
        Key(
            "mode",
            "mode",
            OneOf(TritonMode),
            "direct: Envoy balances over Tritons that run already, and no process of Crossfade's stands between. "
            "bridge: replicas stand between, with batching and limits as for ONNX, and ask the Tritons over gRPC. "
            "(managed, beside model: each replica runs a Triton of its own.)",
        ),
        Key(
            "servers",
            "servers",
            ListOf(_SERVER, MAX_SERVERS),
            "The Tritons, all of which serve the model. Of a host with several addresses, each is one.",
            is_required=True,
        ),
        Key(
            "model",
            "model",
            Matching(TRITON_MODEL_PATTERN, "the name of a model of Triton's", "fraud"),
            "What Triton calls the model. Clients call it by the endpoint's name.",
            is_required=True,
        ),
        Key("version", "version", VersionNumber(), "Triton's version of the model. Left out: the one Triton chooses."),
        Key(
            "sequences",
            "has_sequences",
            Flag(),
            "Whether requests form sequences: those with the same sequence_id go to the same Triton, and never twice.",
        ),
        Key(
            "tls",
            "tls",
            Maybe(TRITON_TLS),
            "How to reach them by TLS. Left out: in plain text. A bridge's files are read where its replicas run.",
        ),
        Key(
            "restricted",
            "restricted",
            Maybe(TRITON_TOKEN),
            "The token that they want to see, if they restrict who scores, or asks for metadata, health or statistics. "
            "A bridge's file is read where its replicas run.",
        ),
    ),
    foreign=OF_MANAGED,
)


@dataclass(frozen=True, slots=True)
class TritonBlock:
    """A `RunningTriton`, which stands where other deployments have a model."""

    def read(self, node: Node, at: At) -> Any:
        return WRONG if refused_mode(node, at) else _TRITON.read(node, at)

    def plain(self, value: Any) -> Any:
        return _TRITON.plain(value) if isinstance(value, RunningTriton) else None

    def schema(self) -> dict[str, Any]:
        return _TRITON.schema()
