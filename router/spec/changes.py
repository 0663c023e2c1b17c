"""Changes of single keys, as the admin API takes them: the same words and checks as in a whole spec."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from router.domain.rollout import RolloutSpec
from router.domain.traffic import Mirror, Traffic
from router.spec.documents import read_documents
from router.spec.nodes import from_plain
from router.spec.problems import SpecProblems
from router.spec.reading import WRONG, At, Report
from router.spec.sections import Section
from router.spec.tables import DEPLOYMENT, ENDPOINT


class Keep(Enum):
    """Stands for "as it is" where None already means "none"."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


@dataclass(frozen=True, slots=True)
class TrafficChange:
    """New traffic, a new mirror (None: no mirror), or both."""

    traffic: Traffic | Literal[Keep.KEEP] = KEEP
    mirror: Mirror | Literal[Keep.KEEP] | None = KEEP


@dataclass(frozen=True, slots=True)
class Scale:
    instance_count: int


_TRAFFIC_CHANGE = Section(TrafficChange, tuple(key for key in ENDPOINT.keys if key.attribute in ("traffic", "mirror")))
_SCALE = Section(Scale, tuple(key for key in DEPLOYMENT.keys if key.attribute == "instance_count"))


def read_traffic_change(value: Any) -> TrafficChange:
    """From `{"traffic": …, "mirror_traffic": …}`; a missing key keeps what is there. Raises `SpecProblems`."""
    change: TrafficChange = _read(_TRAFFIC_CHANGE, value)
    return change


def read_scale(value: Any) -> Scale:
    """From `{"instance_count": …}`. Raises `SpecProblems`."""
    scale: Scale = _read(_SCALE, value, required="instance_count")
    return scale


def read_rollout(endpoint: str, value: Any) -> RolloutSpec:
    """From a document of kind Rollout in which `kind` and `endpoint` may be missing. Raises `SpecProblems`."""
    document = {"kind": "Rollout", "endpoint": endpoint, **value} if isinstance(value, dict) else value
    (read,) = read_documents([document])
    if not isinstance(read.content, RolloutSpec):
        raise SpecProblems([read.problem("kind", "is not Rollout", "write kind: Rollout, or leave it out")])
    if read.content.endpoint != endpoint:
        raise SpecProblems([read.problem("endpoint", f"is not {endpoint!r}", "leave it out")])
    return read.content


def _read(section: Section, value: Any, required: str = "") -> Any:
    report = Report(document=0, folder=None)
    at = At("", report)
    node = from_plain(value)
    content = WRONG
    if isinstance(value, dict) and (not value or (required and required not in value)):
        at.wrong(node, "there is nothing to change", f"give {' or '.join(key.name for key in section.keys)}")
    else:
        content = section.read(node, at)
    if content is WRONG:
        raise SpecProblems(report.problems)
    return content
