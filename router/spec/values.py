"""The kinds of value that a key of a spec can hold. Each knows how to read itself, write itself and describe itself."""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.domain.errors import Invalid
from router.domain.model_ref import SCHEMES, ModelRef
from router.domain.names import checked_client_name, checked_name
from router.domain.sticky import Sticky, StickyBy
from router.domain.traffic import Mirror, Traffic
from router.spec.nodes import MapNode, Node, ScalarNode, describe
from router.spec.problems import nearest
from router.spec.reading import WRONG, At, distinct_entries, only_entry

NAME_PATTERN = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"  # the JSON Schema's copy of domain/names.py
_LONGEST_INPUT_NAME = 200


@dataclass(frozen=True, slots=True)
class Name:
    reserved: frozenset[str] = frozenset()

    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
            number = isinstance(node, ScalarNode) and node.value is not None
            return at.wrong(node, f"must be text, not {describe(node)}", "put it in quotes" if number else "")
        try:
            checked_name(at.path, node.value)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)
        if node.value in self.reserved:
            return at.wrong(node, f"{node.value!r} is reserved by the protocol", "choose another name")
        return node.value

    def plain(self, value: str) -> Any:
        return value or None

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string", "pattern": NAME_PATTERN}
        return schema | ({"not": {"enum": sorted(self.reserved)}} if self.reserved else {})


@dataclass(frozen=True, slots=True)
class ClientName:
    """The name of a client in its certificate."""

    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
            return at.wrong(node, f"must be text, not {describe(node)}", "such as app.example.com")
        try:
            return checked_client_name(at.path, node.value)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def plain(self, value: str) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/@+~%-]{0,252}$"}


@dataclass(frozen=True, slots=True)
class InputName:
    """The name of a model's input: whatever its author chose."""

    def read(self, node: Node, at: At) -> Any:
        if isinstance(node, ScalarNode) and isinstance(node.value, str) and 0 < len(node.value) <= _LONGEST_INPUT_NAME:
            return node.value
        return at.wrong(node, f"must name an input of the model, not {describe(node)}", "such as attention_mask")

    def plain(self, value: str) -> Any:
        return value or None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": _LONGEST_INPUT_NAME}


@dataclass(frozen=True, slots=True)
class Flag:
    def read(self, node: Node, at: At) -> Any:
        if isinstance(node, ScalarNode) and isinstance(node.value, bool):
            return node.value
        return at.wrong(node, f"must be true or false, not {describe(node)}", "write true or false, without quotes")

    def plain(self, value: bool) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Whole:
    minimum: int
    maximum: int

    def read(self, node: Node, at: At) -> Any:
        allowed = f"use a whole number from {self.minimum} to {self.maximum}"
        if not (isinstance(node, ScalarNode) and isinstance(node.value, int) and not isinstance(node.value, bool)):
            return at.wrong(node, f"must be a whole number, not {describe(node)}", allowed)
        if not self.minimum <= node.value <= self.maximum:
            return at.wrong(node, f"{str(node.value)[:60]} is out of range", allowed)
        return node.value

    def plain(self, value: int) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Number:
    """A number up to `maximum`; `minimum` itself is allowed unless `is_above`."""

    minimum: float
    maximum: float
    is_above: bool = False

    def read(self, node: Node, at: At) -> Any:
        value = node.value if isinstance(node, ScalarNode) else None
        word = "above" if self.is_above else "from"
        allowed = f"use a number {word} {self.plain(self.minimum)} to {self.plain(self.maximum)}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return at.wrong(node, f"must be a number, not {describe(node)}", allowed)
        too_low = value <= self.minimum if self.is_above else value < self.minimum
        if too_low or value > self.maximum or math.isnan(value):
            return at.wrong(node, f"{str(value)[:60]} is out of range", allowed)
        return float(value)

    def plain(self, value: float) -> Any:
        return int(value) if value == int(value) else value

    def schema(self) -> dict[str, Any]:
        lower = "exclusiveMinimum" if self.is_above else "minimum"
        return {"type": "number", lower: self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class OneOf:
    """A word out of an enum of the domain."""

    words: type[Any]

    def read(self, node: Node, at: At) -> Any:
        known = [str(word) for word in self.words]
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and value in known:
            return self.words(value)
        near = nearest(value, known) if isinstance(value, str) else None
        hint = f"did you mean {near!r}?" if near else ""
        return at.wrong(node, f"must be one of {', '.join(known)}, not {describe(node)}", hint)

    def plain(self, value: Any) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"enum": [str(word) for word in self.words]}


_SIZE = re.compile(r"([0-9]{1,18})(Ki|Mi|Gi|Ti)")
_DECIMAL_SIZE = re.compile(r"([0-9]{1,18})\s*([kKmMgGtT])[bB]?")
_UNITS = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}


@dataclass(frozen=True, slots=True)
class Size:
    """A size in bytes: `512Mi`, `1Gi`, or a whole number of bytes."""

    minimum: int
    maximum: int

    def read(self, node: Node, at: At) -> Any:
        value = node.value if isinstance(node, ScalarNode) else None
        allowed = f"use a size from {self._words(self.minimum)} to {self._words(self.maximum)}, such as 512Mi or 1Gi"
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            size = int(match[1]) * _UNITS[match[2]]
        elif isinstance(value, str) and (decimal := _DECIMAL_SIZE.fullmatch(value)):
            suggestion = f"did you mean '{decimal[1]}{decimal[2].upper()}i'?"
            return at.wrong(node, f"{value!r} is not a size", suggestion)
        elif isinstance(value, int) and not isinstance(value, bool):
            size = value
        else:
            return at.wrong(node, f"must be a size, not {describe(node)}", allowed)
        if not self.minimum <= size <= self.maximum:
            return at.wrong(node, f"{str(value)[:60]} is out of range", allowed)
        return size

    def plain(self, value: int) -> Any:
        return self._words(value) if value else None

    def _words(self, size: int) -> str | int:
        for unit, factor in reversed(_UNITS.items()):
            if size and size % factor == 0:
                return f"{size // factor}{unit}"
        return size

    def schema(self) -> dict[str, Any]:
        whole = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        return {"anyOf": [{"type": "string", "pattern": "^[0-9]+(Ki|Mi|Gi|Ti)$"}, whole]}


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A file on the gateway's machine: absolute, or relative to the spec's folder."""

    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value.isprintable()):
            return at.wrong(node, f"must be the path of a file, not {describe(node)}", "such as golden/one.json")
        if os.path.isabs(node.value):
            return node.value
        if at.report.folder is None:
            return at.wrong(node, f"{node.value!r} is a relative path", "write the absolute path")
        return os.path.normpath(os.path.join(os.path.abspath(at.report.folder), node.value))

    def plain(self, value: str) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Model:
    """A model reference. Not shown where the deployment has something else in its place."""

    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
            return at.wrong(node, f"must be a model reference, not {describe(node)}", "such as file:models/fraud.onnx")
        try:
            ref = ModelRef.parse(node.value)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)
        if ref.scheme != "file" or os.path.isabs(ref.location):
            return ref
        if at.report.folder is None:
            return at.wrong(
                node, f"{node.value!r} is a relative path", "write the absolute path: file:/srv/models/m.onnx"
            )
        return ModelRef("file", os.path.normpath(os.path.join(os.path.abspath(at.report.folder), ref.location)))

    def plain(self, value: Any) -> Any:
        return str(value) if isinstance(value, ModelRef) else None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({'|'.join(SCHEMES)}):.+"}


@dataclass(frozen=True, slots=True)
class StickyKey:
    """`{header: NAME}`, `{cookie: NAME}` or `{client: true}`."""

    def read(self, node: Node, at: At) -> Any:
        allowed = "use {header: x-user-id}, {cookie: NAME} or {client: true}"
        if (entry := only_entry(node, at, allowed)) is WRONG:
            return WRONG
        word, key, value = entry
        here = at.key(word)
        if word not in set(StickyBy):
            return here.wrong(key, "is not a key here", allowed)
        by = StickyBy(word)
        given = value.value if isinstance(value, ScalarNode) else None
        if by is StickyBy.CLIENT:
            return Sticky(by) if given is True else here.wrong(value, f"must be true, not {describe(value)}", allowed)
        if not isinstance(given, str):
            return here.wrong(value, f"must be text, not {describe(value)}", allowed)
        try:
            return Sticky(by, given)
        except Invalid as error:
            return here.wrong(value, error.message, error.hint)

    def plain(self, value: Sticky | None) -> Any:
        if value is None:
            return None
        return {str(value.by): True if value.by is StickyBy.CLIENT else value.name}

    def schema(self) -> dict[str, Any]:
        name = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
        return {
            "type": "object",
            "properties": {"header": name, "cookie": name, "client": {"const": True}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }


_PERCENT = Whole(0, 100)


@dataclass(frozen=True, slots=True)
class Percents:
    """Deployment → percent: a `Traffic`, or with `is_single` one deployment at most: a `Mirror` or None."""

    is_single: bool = False

    def read(self, node: Node, at: At) -> Any:
        if not isinstance(node, MapNode):
            return at.wrong(node, f"must map deployments to percents, not {describe(node)}", "such as {blue: 100}")
        percents: dict[str, int] = {}
        before = len(at.report.problems)
        for name, key, value in distinct_entries(node, at):
            here = at.key(name)
            try:
                checked_name(here.path, name)
            except Invalid as error:
                here.wrong(key, error.message, error.hint)
            percent = _PERCENT.read(value, here)
            if percent is not WRONG:
                percents[name] = percent
        if len(at.report.problems) > before:
            return WRONG
        if self.is_single:
            return self._mirror(node, at, percents)
        try:
            return Traffic.of(percents)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def _mirror(self, node: Node, at: At, percents: Mapping[str, int]) -> Any:
        if len(percents) > 1:
            return at.wrong(node, f"names {len(percents)} deployments", "mirror to one deployment at most")
        return next((Mirror(name, percent) for name, percent in percents.items() if percent), None)

    def plain(self, value: Traffic | Mirror | None) -> Any:
        if isinstance(value, Mirror):
            return {value.deployment: value.percent}
        return value.as_dict() if value else {}

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {
            "type": "object",
            "propertyNames": {"pattern": NAME_PATTERN},
            "additionalProperties": _PERCENT.schema(),
        }
        return schema | ({"maxProperties": 1} if self.is_single else {})


OPTION_PATTERN = "^[A-Za-z][A-Za-z0-9_.]{0,99}$"
_OPTION_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """Names → words for somebody else's software, as pairs of text, sorted by name. true and false become 1 and 0."""

    def read(self, node: Node, at: At) -> Any:
        if not isinstance(node, MapNode):
            return at.wrong(node, f"must map options to values, not {describe(node)}", "such as {device_id: 0}")
        options: dict[str, str] = {}
        before = len(at.report.problems)
        for name, key, value in distinct_entries(node, at):
            here = at.key(name)
            if not re.fullmatch(OPTION_PATTERN, name):
                here.wrong(key, f"{name[:60]!r} is not the name of an option", "use letters, digits and underscores")
            options[name] = self._text(value, here)
        return tuple(sorted(options.items())) if len(at.report.problems) == before else WRONG

    def _text(self, node: Node, at: At) -> Any:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, bool):
            return str(int(value))
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        text = "" if value is None else str(value)
        if not isinstance(value, str | int | float) or len(text) > _OPTION_LENGTH:
            return at.wrong(node, f"must be a text or a number, not {describe(node)}", "write true, 1 or a word")
        return text

    def plain(self, value: tuple[tuple[str, str], ...]) -> Any:
        return dict(value) or None

    def schema(self) -> dict[str, Any]:
        scalar = {"anyOf": [{"type": ["number", "boolean"]}, {"type": "string", "maxLength": _OPTION_LENGTH}]}
        return {
            "type": "object",
            "propertyNames": {"pattern": OPTION_PATTERN},
            "additionalProperties": scalar,
        }
