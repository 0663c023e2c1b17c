"""Domain values → plain data and YAML: the way back. What is written here reads as the same value."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from ruamel.yaml import YAML

from router.domain.deployment import Deployment
from router.domain.endpoint import Endpoint
from router.domain.listening import GatewaySpec
from router.domain.rollout import RolloutSpec
from router.spec.documents import Document
from router.spec.gateway_tables import GATEWAY
from router.spec.rollout_tables import ROLLOUT
from router.spec.tables import DEPLOYMENT, ENDPOINT, MANAGED_DEPLOYMENT


def to_plain(value: Endpoint | Deployment | RolloutSpec | GatewaySpec) -> dict[str, Any]:
    """One document as JSON shows it: `kind`, then every key in the order of the tables, defaults included."""
    match value:
        case Endpoint():
            return {"kind": "Endpoint", **ENDPOINT.plain(value)}
        case Deployment():
            section = DEPLOYMENT if value.managed is None else MANAGED_DEPLOYMENT
            return {"kind": "Deployment", **section.plain(value)}
        case RolloutSpec():
            return {"kind": "Rollout", **ROLLOUT.plain(value)}
        case GatewaySpec():
            return {"kind": "Gateway", **GATEWAY.plain(value)}


def written_plain(document: Document) -> dict[str, Any]:
    """The document with only the keys that were written: what was left out keeps its meaning on the way to the API."""
    plain = to_plain(document.content)
    return {key: value for key, value in plain.items() if key in document.given}


def to_yaml(values: Iterable[Endpoint | Deployment | RolloutSpec | GatewaySpec]) -> str:
    """YAML documents, separated by `---`."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False  # in braces, ruamel.yaml leaves `?0` and `:a` bare, and then cannot read them
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel.yaml declares it None
    out = io.StringIO()
    yaml.dump_all([to_plain(value) for value in values], out)
    return out.getvalue()
