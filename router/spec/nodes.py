"""YAML text → a plain tree that remembers where everything stands. This file alone touches ruamel.yaml's parser.

The tree is built from parser events, not by a YAML constructor, because a spec needs less than YAML offers and all of
it checked: no tags (so no Python objects), no anchors and aliases (so no "billion laughs"), duplicate keys kept for the
reader to refuse, and the scalars of YAML 1.2's core schema (`yes` and `on` are words, `012` is twelve).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from router.spec.problems import Mark, Problem, SpecProblems

MAX_DEPTH = 20  # a spec is four levels deep; anything deeper is a mistake or an attack

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]{1,100}")
_OCTAL = re.compile(r"0o([0-7]{1,100})")
_HEX = re.compile(r"0x([0-9a-fA-F]{1,100})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class ScalarNode:
    value: Scalar
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class ListNode:
    items: tuple[Node, ...]
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class MapNode:
    """`entries` as written: duplicates are kept, keys may be any scalar."""

    entries: tuple[tuple[ScalarNode, Node], ...]
    mark: Mark | None = None


Node = ScalarNode | ListNode | MapNode


def describe(node: Node) -> str:
    """What the node is, in words for an error message."""
    match node:
        case MapNode():
            return "a mapping"
        case ListNode():
            return "a list"
        case ScalarNode(value=None):
            return "nothing"
        case ScalarNode(value=bool() as value):
            return "true" if value else "false"
        case ScalarNode(value=str() as value):
            return f"the text {value[:60]!r}"
        case ScalarNode(value=value):
            return f"the number {str(value)[:60]}"


def from_plain(value: Any, depth: int = 0) -> Node:
    """Decoded JSON → the same tree, without marks. Raises `SpecProblems` for too deep a nesting."""
    if depth > MAX_DEPTH:
        raise SpecProblems([Problem("", f"is nested deeper than {MAX_DEPTH} levels")])
    if isinstance(value, Mapping):
        return MapNode(tuple((ScalarNode(str(key)), from_plain(item, depth + 1)) for key, item in value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ListNode(tuple(from_plain(item, depth + 1) for item in value))
    if value is None or isinstance(value, str | int | float | bool):
        return ScalarNode(value)
    raise SpecProblems([Problem("", f"{type(value).__name__} is not a JSON value")])


def documents_of(content: bytes, file: str) -> list[Node]:
    """The documents of one YAML text, empty ones left out. Raises `SpecProblems` at the first break of the syntax."""
    text = _decoded(content, file)
    try:
        return list(_Composer(YAML(typ="safe", pure=True).parse(text), file).documents())
    except MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(file, at.line + 1, at.column + 1) if at else Mark(file, 1, 1)
        words = error.problem or error.context or "is not YAML"
        raise SpecProblems([Problem("", f"is not valid YAML: {words}", "", None, mark)]) from None
    except YAMLError as error:  # a character that YAML forbids; it knows its position only
        before = text[: getattr(error, "position", 0)]
        mark = Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise SpecProblems([Problem("", "contains a character that YAML does not allow", "", None, mark)]) from None


def _decoded(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        mark = Mark(file, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise SpecProblems([Problem("", "is not UTF-8 text", "save the file as UTF-8", None, mark)]) from None


class _Composer:
    """Folds ruamel's events into nodes."""

    def __init__(self, events: Iterator[Any], file: str) -> None:
        self._events = events
        self._file = file

    def documents(self) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                node = self._node(next(self._events), 0)
                if not (isinstance(node, ScalarNode) and node.value is None):
                    yield node

    def _node(self, event: Any, depth: int) -> Node:
        mark = Mark(self._file, event.start_mark.line + 1, event.start_mark.column + 1)
        if depth > MAX_DEPTH:
            raise _refused(mark, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent) or event.anchor is not None:
            raise _refused(mark, "anchors (&name) and aliases (*name) are not supported", "write the value out")
        if event.tag is not None:
            raise _refused(mark, f"the tag {str(event.tag)[:60]!r} is not supported", "remove it")
        if isinstance(event, ScalarEvent):
            is_plain = event.implicit[0]
            return ScalarNode(resolved(event.value) if is_plain else event.value, mark)
        if isinstance(event, SequenceStartEvent):
            return ListNode(tuple(self._items(depth)), mark)
        return MapNode(tuple(self._entries(depth)), mark)

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _entries(self, depth: int) -> Iterator[tuple[ScalarNode, Node]]:
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, ScalarNode):
                assert key.mark is not None
                raise _refused(key.mark, f"{describe(key)} cannot be a key", "use a plain word")
            yield key, self._node(next(self._events), depth + 1)


def resolved(text: str) -> Scalar:
    """A plain scalar as YAML 1.2's core schema reads it (https://yaml.org/spec/1.2.2/#1032-tag-resolution)."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if octal := _OCTAL.fullmatch(text):
        return int(octal[1], 8)
    if hexadecimal := _HEX.fullmatch(text):
        return int(hexadecimal[1], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return float("nan") if text in _NAN else text


def _refused(mark: Mark, message: str, hint: str = "") -> SpecProblems:
    return SpecProblems([Problem("", message, hint, None, mark)])
