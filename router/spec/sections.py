"""A section: a mapping with known keys that becomes one domain object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.domain.errors import Invalid
from router.spec.nodes import MapNode, Node, ScalarNode, describe
from router.spec.problems import did_you_mean
from router.spec.reading import NOT_YET, WRONG, At, Kind, distinct_entries


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its word in the spec, the attribute of the domain object that it fills, its kind and its meaning."""

    name: str
    attribute: str
    kind: Kind
    description: str
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping that becomes the domain object `builds`. `later`: keys that this version does not have yet → hint."""

    builds: type[Any]
    keys: tuple[Key, ...]
    later: Mapping[str, str] = field(default_factory=dict)

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
        seen = set()
        before = len(at.report.problems)
        for name, key_node, value in distinct_entries(node, at):
            seen.add(name)
            here = at.key(name)
            if name in ignored:
                continue
            if name in self.later:
                here.wrong(key_node, NOT_YET, self.later[name])
            elif name not in known:
                here.wrong(key_node, "is not a key here", did_you_mean(name, known))
            elif isinstance(value, ScalarNode) and value.value is None:
                here.wrong(key_node, "has no value", "give it one, or remove the key")
            else:
                values[known[name].attribute] = known[name].kind.read(value, here)
        for key in self.keys:
            if key.is_required and key.name not in seen:
                at.wrong(node, f"the key {key.name!r} is missing", key.description)
        return values if len(at.report.problems) == before else WRONG

    def plain(self, value: Any) -> Any:
        shown = {key.name: key.kind.plain(getattr(value, key.attribute)) for key in self.keys}
        return {name: item for name, item in shown.items() if item is not None}

    def schema(self) -> dict[str, Any]:
        defaults = {item.name: item.default for item in dataclasses.fields(self.builds)}
        properties = {}
        for key in self.keys:
            properties[key.name] = key.kind.schema() | {"description": key.description}
            default = defaults[key.attribute]
            if isinstance(default, str | int | float) and (shown := key.kind.plain(default)) is not None:
                properties[key.name]["default"] = shown
        return {
            "type": "object",
            "properties": properties,
            "required": [key.name for key in self.keys if key.is_required],
            "additionalProperties": False,
        }
