"""What every kind of value shares while a document is read: the place, the report, and how mistakes are noted.

Nothing here raises: a mistake is noted in the `Report` and the value becomes `WRONG`, so one pass finds every mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from router.domain.errors import Invalid
from router.spec.nodes import MapNode, Node, ScalarNode, describe
from router.spec.problems import Mark, Problem

WRONG: Final = object()


@dataclass(slots=True)
class Report:
    """What one reading of one document collects: the problems, and where each key stands."""

    document: int
    folder: str | None  # relative `file:` models belong here; None: there is no folder, so they are refused
    problems: list[Problem] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class At:
    """A place in the document that is being read: the key path, and the report that collects what is found there."""

    path: str
    report: Report

    def key(self, name: str) -> At:
        return At(f"{self.path}.{name}" if self.path else name, self.report)

    def entry(self, number: int, node: Node) -> At:
        """The place of an entry of a list, counted from 0."""
        here = At(f"{self.path}[{number}]", self.report)
        if node.mark:
            self.report.marks[here.path] = node.mark
        return here

    def wrong(self, node: Node, message: str, hint: str = "") -> Any:
        problem = Problem(self.path, message, hint, self.report.document, node.mark)
        self.report.problems.append(problem)
        return WRONG

    def invalid(self, node: Node, error: Invalid) -> Any:
        """A refusal by the domain, whose keys are full paths already."""
        mark = self.report.marks.get(error.key, node.mark)
        problem = Problem(error.key or self.path, error.message, error.hint, self.report.document, mark)
        self.report.problems.append(problem)
        return WRONG


class Kind(Protocol):
    def read(self, node: Node, at: At) -> Any:
        """The domain's value, or `WRONG` after reporting why."""

    def plain(self, value: Any) -> Any:
        """A domain value → what JSON or YAML shows. None: leave the key out."""

    def schema(self) -> dict[str, Any]:
        """JSON Schema (draft 2020-12)."""


def distinct_entries(node: MapNode, at: At) -> Iterator[tuple[str, ScalarNode, Node]]:
    """Name, key and value of every entry; notes where each stands, and reports keys that are no text or come twice."""
    first: dict[str, Mark | None] = {}
    for key, value in node.entries:
        if not isinstance(key.value, str):
            at.wrong(key, f"{describe(key)} cannot be a key", "put it in quotes")
            continue
        here = at.key(key.value)
        if key.value in first:
            earlier = first[key.value]
            here.wrong(key, "is written twice", f"first in line {earlier.line}" if earlier else "")
            continue
        first[key.value] = key.mark
        if key.mark:
            at.report.marks[here.path] = key.mark
        yield key.value, key, value


def only_entry(node: Node, at: At, allowed: str) -> Any:
    """Name, key and value of the one entry that there must be; WRONG, and reported, when there is not."""
    if not isinstance(node, MapNode):
        return at.wrong(node, f"must be a mapping, not {describe(node)}", allowed)
    entries = list(distinct_entries(node, at))
    return entries[0] if len(entries) == 1 else at.wrong(node, f"has {len(entries)} keys instead of one", allowed)
