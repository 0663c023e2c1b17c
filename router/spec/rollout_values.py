"""The kinds of value that only a rollout's spec has: durations, URLs, lists, steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from router.domain.errors import Invalid
from router.domain.sources import MAX_ARGUMENTS, MAX_TEXT, CommandOutput, checked_url
from router.domain.strategy import Analyze, ForSeconds, Pause, SetMirror, SetWeight, Step, UntilPromoted
from router.spec.nodes import ListNode, MapNode, Node, ScalarNode, describe
from router.spec.problems import did_you_mean
from router.spec.reading import WRONG, At, Kind, distinct_entries
from router.spec.sections import Key, Section
from router.spec.values import Whole

_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@dataclass(frozen=True, slots=True)
class Duration:
    """Whole milliseconds, seconds, minutes, hours or days: `500ms`, `60s`, `10m`, `2h`, `7d`. The value is seconds."""

    minimum_s: float
    maximum_s: float

    def read(self, node: Node, at: At) -> Any:
        value = node.value if isinstance(node, ScalarNode) else None
        allowed = f"use {duration_text(self.minimum_s)} to {duration_text(self.maximum_s)}"
        if isinstance(value, int) and not isinstance(value, bool):
            return at.wrong(node, f"{str(value)[:60]} has no unit", f"did you mean '{str(value)[:12]}s'?")
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            hint = f"{allowed}, such as 500ms, 60s, 10m, 2h"
            return at.wrong(node, f"must be a duration, not {describe(node)}", hint)
        seconds = int(match[1]) * _UNITS_MS[match[2]] / 1000
        if not self.minimum_s <= seconds <= self.maximum_s:
            return at.wrong(node, f"{match[0]} is out of range", allowed)
        return seconds

    def plain(self, value: float) -> Any:
        return duration_text(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9]{1,12}(ms|s|m|h|d)$"}


def duration_text(seconds: float) -> str:
    """As a spec has it, to the millisecond: `10m`."""
    milliseconds = round(seconds * 1000)
    unit = next((unit for unit, length in _UNITS_MS.items() if milliseconds and milliseconds % length == 0), "s")
    return f"{milliseconds // _UNITS_MS[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Url:
    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
            return at.wrong(node, f"must be a URL, not {describe(node)}", "such as http://host:port/path")
        try:
            return checked_url(at.path, node.value)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def plain(self, value: str) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^https?://.+", "maxLength": MAX_TEXT}


@dataclass(frozen=True, slots=True)
class Text:
    may_be_empty: bool = False

    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
            hint = "put it in quotes" if isinstance(node, ScalarNode) and node.value is not None else ""
            return at.wrong(node, f"must be text, not {describe(node)}", hint)
        if not self.may_be_empty and not node.value.strip():
            return at.wrong(node, "is empty", "give it a value, or remove the key")
        if len(node.value) > MAX_TEXT:
            return at.wrong(node, f"has {len(node.value)} characters", f"use at most {MAX_TEXT}")
        return node.value

    def plain(self, value: str) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "maxLength": MAX_TEXT}


@dataclass(frozen=True, slots=True)
class Word:
    """One of a few words."""

    words: Sequence[str]

    def read(self, node: Node, at: At) -> Any:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and value in self.words:
            return value
        hint = did_you_mean(value, self.words) if isinstance(value, str) else f"use {' or '.join(self.words)}"
        return at.wrong(node, f"must be one of {', '.join(self.words)}, not {describe(node)}", hint)

    def plain(self, value: str) -> Any:
        return value or None

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of at most `maximum` values of one kind: a tuple."""

    item: Kind
    maximum: int

    def read(self, node: Node, at: At) -> Any:
        if not isinstance(node, ListNode):
            return at.wrong(node, f"must be a list, not {describe(node)}", "begin every entry with '- '")
        if len(node.items) > self.maximum:
            return at.wrong(node, f"has {len(node.items)} entries", f"use at most {self.maximum}")
        items = [self.item.read(item, at.entry(number, item)) for number, item in enumerate(node.items)]
        return WRONG if any(item is WRONG for item in items) else tuple(items)

    def plain(self, value: Sequence[Any]) -> Any:
        return [self.item.plain(item) for item in value] or None

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema(), "maxItems": self.maximum}


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value that may be missing: None is not written."""

    kind: Kind

    def read(self, node: Node, at: At) -> Any:
        return self.kind.read(node, at)

    def plain(self, value: Any) -> Any:
        return None if value is None else self.kind.plain(value)

    def schema(self) -> dict[str, Any]:
        return self.kind.schema()


@dataclass(frozen=True, slots=True)
class Translated:
    """A section whose keys are not the attributes of the domain's value: `forth` builds that, `back` takes it apart.

    `forth` may raise `Invalid`, whose keys are paths inside the section.
    """

    section: Section
    forth: Callable[[Any], Any]
    back: Callable[[Any], Any]

    @property
    def keys(self) -> tuple[Key, ...]:
        return self.section.keys

    def read(self, node: Node, at: At, ignored: frozenset[str] = frozenset()) -> Any:
        written = self.section.read(node, at, ignored)
        if written is WRONG:
            return WRONG
        try:
            return self.forth(written)
        except Invalid as error:
            key = f"{at.path}.{error.key}" if at.path and error.key else at.path or error.key
            return at.invalid(node, Invalid(key, error.message, error.hint))

    def plain(self, value: Any) -> Any:
        return self.section.plain(self.back(value))

    def schema(self) -> dict[str, Any]:
        return self.section.schema()


@dataclass(frozen=True, slots=True)
class CommandWords:
    """A program and its arguments."""

    words: ListOf = ListOf(Text(may_be_empty=True), MAX_ARGUMENTS)

    def read(self, node: Node, at: At) -> Any:
        argv = self.words.read(node, at)
        if argv is WRONG:
            return WRONG
        try:
            return CommandOutput(argv)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def plain(self, value: CommandOutput) -> Any:
        return self.words.plain(value.argv)

    def schema(self) -> dict[str, Any]:
        return self.words.schema() | {"minItems": 1}


_WAIT = Duration(0, 7 * 86400)
_FOR = Section(ForSeconds, (Key("duration", "duration_s", _WAIT, "How long, such as 10m.", is_required=True),))
_UNTIL_PROMOTED = "until_promoted"


@dataclass(frozen=True, slots=True)
class PauseKind:
    """`until_promoted`, or `{duration: 10m}`."""

    def read(self, node: Node, at: At) -> Any:
        if isinstance(node, MapNode):
            until = _FOR.read(node, at)
            return WRONG if until is WRONG else Pause(until)
        if isinstance(node, ScalarNode) and node.value == _UNTIL_PROMOTED:
            return Pause(UntilPromoted())
        message = f"must be until_promoted or a duration, not {describe(node)}"
        return at.wrong(node, message, "write until_promoted or {duration: 10m}")

    def plain(self, value: Pause) -> Any:
        return _UNTIL_PROMOTED if isinstance(value.until, UntilPromoted) else _FOR.plain(value.until)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"const": _UNTIL_PROMOTED}, _FOR.schema()]}


@dataclass(frozen=True, slots=True)
class Weight:
    """A percent that becomes a step."""

    step: type[SetWeight] | type[SetMirror]

    def read(self, node: Node, at: At) -> Any:
        percent = _PERCENT.read(node, at)
        return WRONG if percent is WRONG else self.step(percent)

    def plain(self, value: SetWeight | SetMirror) -> Any:
        return value.percent

    def schema(self) -> dict[str, Any]:
        return _PERCENT.schema()


_PERCENT = Whole(0, 100)
_COUNT = Whole(0, 1_000_000_000)

ANALYZE = Section(
    Analyze,
    (
        Key("bake", "bake_s", _WAIT, "The shortest time that this step takes."),
        Key("min_requests", "min_requests", _COUNT, "So many requests must reach the candidate at this step."),
        Key("min_pairs", "min_pairs", _COUNT, "So many compared answers must agree; 0 asks for none."),
    ),
)


@dataclass(frozen=True, slots=True)
class StepKind:
    """A mapping with one key, which says what the step does."""

    def read(self, node: Node, at: At) -> Any:
        known = ", ".join(key.name for key in _STEPS)
        if not isinstance(node, MapNode):
            return at.wrong(node, f"must be a mapping with one key, not {describe(node)}", f"one of {known}")
        if len(node.entries) != 1:
            return at.wrong(node, f"has {len(node.entries)} keys", f"give every step one of {known}")
        for name, key_node, value in distinct_entries(node, at):
            here = at.key(name)
            kind = next((key.kind for key in _STEPS if key.name == name), None)
            if kind is None:
                return here.wrong(key_node, "is not a step", did_you_mean(name, [key.name for key in _STEPS]))
            if isinstance(value, ScalarNode) and value.value is None:
                return here.wrong(key_node, "has no value", "give it one, or remove the step")
            return kind.read(value, here)
        return WRONG  # the key is no text, which is noted

    def plain(self, value: Step) -> Any:
        key = next(key for key in _STEPS if key.attribute == type(value).__name__)
        return {key.name: key.kind.plain(value)}

    def schema(self) -> dict[str, Any]:
        properties = {key.name: key.kind.schema() | {"description": key.description} for key in _STEPS}
        return {
            "type": "object",
            "properties": properties,
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        }


# The attribute is the name of the domain's class here.
_STEPS = (
    Key("set_weight", "SetWeight", Weight(SetWeight), "The candidate answers this percent of the live requests."),
    Key("set_mirror", "SetMirror", Weight(SetMirror), "The candidate gets copies of this percent of the requests."),
    Key("pause", "Pause", PauseKind(), "Traffic stays as it is: {duration: 10m}, or until_promoted."),
    Key("analyze", "Analyze", ANALYZE, "Go on when the evidence says that the candidate is as good as stable."),
)
