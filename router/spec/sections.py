"""A section: a mapping with known keys that becomes one domain object."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from router.domain.errors import Invalid
from router.spec.nodes import MapNode, Node, ScalarNode, describe
from router.spec.problems import did_you_mean
from router.spec.reading import WRONG, At, Kind, distinct_entries


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its word in the spec, the attribute of the domain object that it fills, its kind and its meaning.

    `instead_of`: an attribute of the same object. Its key may not be written beside this one, and is not shown when
    this attribute has a value (anything but None). Where both fill the same attribute, each shows its own kind of value
    only, and when one of them is required, either will do. `beside`: what to do when both are written.
    """

    name: str
    attribute: str
    kind: Kind
    description: str
    is_required: bool = False
    instead_of: str = ""
    beside: str = "remove one of the two"


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping that becomes the domain object `builds`. `foreign`: keys that people may write here and that belong
    elsewhere, and what is said of them."""

    builds: type[Any]
    keys: tuple[Key, ...]
    foreign: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))

    def read(self, node: Node, at: At, ignored: frozenset[str] = frozenset()) -> Any:
        values = self._values(node, at, ignored)
        if values is WRONG:
            return WRONG
        try:
            return self.builds(**values)
        except Invalid as error:
            return at.invalid(node, error)

    def _values(self, node: Node, at: At, ignored: frozenset[str]) -> Any:
        """Attribute → value for every key that is written, or `WRONG`."""
        if not isinstance(node, MapNode):
            names = ", ".join(key.name for key in self.keys)
            return at.wrong(node, f"must be a mapping, not {describe(node)}", f"with the keys {names}")
        known = {key.name: key for key in self.keys}
        values: dict[str, Any] = {}
        seen: dict[str, ScalarNode] = {}
        before = len(at.report.problems)
        for name, key_node, value in distinct_entries(node, at):
            seen[name] = key_node
            here = at.key(name)
            if name in ignored:
                continue
            if name not in known:
                here.wrong(key_node, "is not a key here", self.foreign.get(name) or did_you_mean(name, known))
            elif isinstance(value, ScalarNode) and value.value is None:
                here.wrong(key_node, "has no value", "give it one, or remove the key")
            else:
                values[known[name].attribute] = known[name].kind.read(value, here)
        for key in self.keys:
            if key.is_required and key.name not in seen and not any(name in seen for name in self._substitutes(key)):
                at.wrong(node, f"the key {key.name!r} is missing", key.description)
        for key, other in self._alternatives():
            if key.name in seen and other.name in seen:
                at.key(other.name).wrong(seen[other.name], f"cannot stand beside {key.name!r}", key.beside)
        return values if len(at.report.problems) == before else WRONG

    def _alternatives(self) -> Iterator[tuple[Key, Key]]:
        """A key, and the one that it stands instead of."""
        for key in self.keys:
            others = (other for other in self.keys if other.attribute == key.instead_of and other is not key)
            yield from ((key, other) for other in others)

    def _substitutes(self, key: Key) -> list[str]:
        """The keys that fill its attribute as well."""
        return [one.name for one, other in self._alternatives() if other is key and one.attribute == key.attribute]

    def plain(self, value: Any) -> Any:
        if value is None:
            return None
        hidden = {key.instead_of for key in self.keys if getattr(value, key.attribute) is not None}
        hidden -= {key.attribute for key in self.keys if key.attribute == key.instead_of}
        keys = [key for key in self.keys if key.attribute not in hidden]
        shown = {key.name: key.kind.plain(getattr(value, key.attribute)) for key in keys}
        return {name: item for name, item in shown.items() if item is not None}

    def schema(self) -> dict[str, Any]:
        defaults = {item.name: item.default for item in dataclasses.fields(self.builds)}
        properties = {}
        for key in self.keys:
            properties[key.name] = key.kind.schema() | {"description": key.description}
            default = defaults[key.attribute]
            if isinstance(default, str | int | float) and (shown := key.kind.plain(default)) is not None:
                properties[key.name]["default"] = shown
        schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": [key.name for key in self.keys if key.is_required and not self._substitutes(key)],
            "additionalProperties": False,
        }
        for key in self.keys:
            if key.is_required and (substitutes := self._substitutes(key)):
                schema["anyOf"] = [{"required": [name]} for name in (key.name, *substitutes)]
        pairs = [{"required": [key.name, other.name]} for key, other in self._alternatives()]
        return schema | ({"not": {"anyOf": pairs}} if pairs else {})
