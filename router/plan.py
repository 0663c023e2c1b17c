"""A plan: what a change would do, decided before anything is touched, for the store and in words for the operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from router.domain.deployment import DeployedModel
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Conflict
from router.domain.listening import GatewaySpec, Offer
from router.spec import Document, to_plain


class Action(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    WAITING = "waiting"  # comes later: something else must be in force first


@dataclass(frozen=True, slots=True)
class FieldChange:
    """`old` and `new` are plain values as a spec shows them; None where the key was or is absent."""

    key: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one object. `deployment` is empty when the endpoint itself is meant, both when the gateway is."""

    action: Action
    endpoint: str
    deployment: str = ""
    fields: tuple[FieldChange, ...] = ()

    @property
    def kind(self) -> Literal["gateway", "endpoint", "deployment"]:
        if self.deployment:
            return "deployment"
        return "endpoint" if self.endpoint else "gateway"


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What a document says about the gateway, and what that changes. `offers`: the listeners that come of it."""

    document: Document
    spec: GatewaySpec
    offers: tuple[Offer, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class Plan:
    """States to write (with their new revisions), endpoints to delete, and the same in words for the operator.

    `gateway`: how it is to be, when that is new.
    """

    changed: tuple[EndpointState, ...]
    deleted: tuple[str, ...]
    changes: tuple[Change, ...]
    gateway: GatewayPlan | None = None

    @property
    def is_empty(self) -> bool:
        return not self.changed and not self.deleted and self.gateway is None


class RevisionConflict(Conflict):
    """The caller looked at another revision than the one that is there now. Revision 0: it does not exist."""

    def __init__(self, endpoint: str, expected: int, actual: int) -> None:
        super().__init__(f"endpoint {endpoint!r} is at revision {actual}, not {expected}: somebody was faster")
        self.endpoint = endpoint
        self.expected = expected
        self.actual = actual


def change_between(old: Mapping[str, Any], new: Mapping[str, Any], endpoint: str, deployment: str = "") -> Change:
    """What becomes of an object between its two looks, each as `shown` gives it; `old` is empty when it is new."""
    if not old:
        return Change(Action.CREATED, endpoint, deployment)
    keys = [*new, *(key for key in old if key not in new)]
    fields = tuple(FieldChange(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key))
    return Change(Action.CHANGED if fields else Action.UNCHANGED, endpoint, deployment, fields)


def shown(value: Endpoint | DeployedModel | None) -> dict[str, Any]:
    """The object as flat keys and plain values; the model's digest counts, for the same name may hold a new model."""
    if value is None:
        return {}
    if isinstance(value, Endpoint):
        return to_plain(value)
    flat: dict[str, Any] = {}
    for key, item in to_plain(value.spec).items():
        flat |= {f"{key}.{inner}": part for inner, part in item.items()} if isinstance(item, dict) else {key: item}
    return flat | {"model_sha256": value.model_sha256}
