"""Texts or decoded JSON → Documents: parsed, complete, without contradiction inside the input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.domain.deployment import Deployment
from router.domain.endpoint import Endpoint
from router.domain.listening import GatewaySpec
from router.domain.rollout import RolloutSpec
from router.spec.nodes import MapNode, Node, ScalarNode, describe, documents_of, from_plain
from router.spec.problems import Mark, Problem, SpecProblems, did_you_mean
from router.spec.reading import WRONG, At, Report
from router.spec.tables import KINDS, section_for


@dataclass(frozen=True, slots=True)
class SpecSource:
    """One spec text. `file` is shown in messages; relative `file:` models are looked up from `folder`."""

    file: str
    content: bytes
    folder: str


@dataclass(frozen=True, slots=True)
class Document:
    """One object of the input. `given`: the top-level keys that were written (what is left out may mean "as it is")."""

    index: int
    content: Endpoint | Deployment | RolloutSpec | GatewaySpec
    given: frozenset[str]
    mark: Mark | None
    marks: Mapping[str, Mark]

    @property
    def endpoint_name(self) -> str:
        """Empty when the document is about the gateway."""
        match self.content:
            case Endpoint(name=name):
                return name
            case GatewaySpec():
                return ""
            case spec:
                return spec.endpoint

    def problem(self, key: str, message: str, hint: str = "") -> Problem:
        """A mistake found later, told where `key` (or the nearest key above it) was written."""
        path = key
        while path and path not in self.marks:
            path = path.rpartition(".")[0]
        return Problem(key, message, hint, self.index, self.marks.get(path, self.mark))


def read_specs(sources: Iterable[SpecSource]) -> tuple[Document, ...]:
    """Read YAML texts, each with any number of documents. Raises `SpecProblems` with every mistake of all of them."""
    problems: list[Problem] = []
    nodes: list[tuple[Node, str | None]] = []
    for source in sources:
        try:
            nodes += [(node, source.folder) for node in documents_of(source.content, source.file)]
        except SpecProblems as error:
            problems += error.problems
    return _read(nodes, problems)


def read_documents(values: Sequence[Any]) -> tuple[Document, ...]:
    """Read decoded JSON, one value a document. Raises `SpecProblems` with every mistake of all of them."""
    return _read([(from_plain(value), None) for value in values], [])


def _read(nodes: Sequence[tuple[Node, str | None]], problems: list[Problem]) -> tuple[Document, ...]:
    documents = []
    for index, (node, folder) in enumerate(nodes):
        report = Report(index, folder)
        document = _document(node, At("", report))
        problems += report.problems
        if document is not None:
            documents.append(document)
    problems += _duplicates(documents)
    if not nodes and not problems:
        problems.append(
            Problem("", "there is no document in the input", "begin with kind: Endpoint or kind: Deployment")
        )
    if problems:
        raise SpecProblems(problems)
    return tuple(documents)


def _document(node: Node, at: At) -> Document | None:
    known = ", ".join(KINDS)
    if not isinstance(node, MapNode):
        at.wrong(node, f"a document must be a mapping, not {describe(node)}", f"begin with kind: {known}")
        return None
    kinds = [value for key, value in node.entries if key.value == "kind"]
    if not kinds:
        at.wrong(node, "the key 'kind' is missing", f"one of {known}")
        return None
    kind = kinds[0].value if isinstance(kinds[0], ScalarNode) else None
    if not isinstance(kind, str) or kind not in KINDS:
        hint = did_you_mean(kind, KINDS) if isinstance(kind, str) else f"one of {known}"
        at.key("kind").wrong(kinds[0], f"{describe(kinds[0])} is not a kind of spec", hint)
        return None
    content = section_for(kind, node).read(node, at, ignored=frozenset({"kind"}))
    if content is WRONG:
        return None
    given = frozenset(str(key.value) for key, _ in node.entries)
    return Document(at.report.document, content, given, node.mark, at.report.marks)


def _duplicates(documents: Iterable[Document]) -> Iterable[Problem]:
    first: dict[tuple[str, ...], Document] = {}
    for document in documents:
        identity: tuple[str, ...]
        match document.content:
            case Endpoint(name=name):
                identity, key, message = ("endpoint", name), "name", f"endpoint {name!r} is described twice"
            case Deployment(name=name, endpoint=endpoint):
                identity = ("deployment", endpoint, name)
                key, message = "name", f"deployment {name!r} is described twice"
            case RolloutSpec(endpoint=endpoint):
                identity, key = ("rollout", endpoint), "endpoint"
                message = f"endpoint {endpoint!r} has a rollout already, and one at a time is all it can have"
            case GatewaySpec():
                identity, key, message = ("gateway",), "kind", "the gateway is described twice"
        earlier = first.setdefault(identity, document)
        if earlier is not document:
            where = str(earlier.mark) if earlier.mark else f"document {earlier.index + 1}"
            yield document.problem(key, message, f"first at {where}")
