"""A file of steps, as `crossfade rollout start --steps` takes it."""

from __future__ import annotations

from typing import Any

from router.domain.strategy import MAX_STEPS
from router.spec.documents import SpecSource
from router.spec.nodes import ListNode, MapNode, Node, documents_of
from router.spec.problems import Problem, SpecProblems
from router.spec.reading import At, Report, distinct_entries
from router.spec.rollout_values import ListOf, StepKind

_STEPS = ListOf(StepKind(), MAX_STEPS)


def read_steps(source: SpecSource) -> list[Any]:
    """The steps as a spec has them, from a YAML text that holds a list of steps, or `steps:` with one.

    Raises `SpecProblems` with every mistake. Whether the steps make sense together is told by whoever starts them.
    """
    nodes = documents_of(source.content, source.file)
    if len(nodes) != 1:
        raise SpecProblems([Problem("", f"{source.file} holds {len(nodes)} documents", "write one list of steps")])
    report = Report(document=0, folder=source.folder)
    read = _read(nodes[0], report)
    if report.problems:
        raise SpecProblems(report.problems)
    plain: list[Any] = _STEPS.plain(read)
    return plain


def _read(node: Node, report: Report) -> Any:
    steps = node
    if isinstance(node, MapNode):
        entries = {name: value for name, _, value in distinct_entries(node, At("", report))}
        if set(entries) != {"steps"}:
            return At("", report).wrong(node, "a file of steps is a list, or has the key 'steps' alone")
        steps = entries["steps"]
    if isinstance(steps, ListNode) and not steps.items:
        return At("steps", report).wrong(steps, "there are none", "begin every step with '- '")
    return _STEPS.read(steps, At("steps", report))
