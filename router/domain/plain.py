"""Rollouts and their evidence as JSON's types, and back: what a store keeps.

Follows the dataclasses' own annotations, so there is no second list of fields to keep in step. A field that was added
later, and has a default, may be missing in what was stored; an unknown one is an error, because a newer version wrote
it. A dataclass out of a union of several carries its name under "is".
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from router.domain.errors import Invalid

T = TypeVar("T")

_TAG = "is"


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts, tuples lists, enums their values, times ISO 8601, an infinite float "inf"."""
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case float() if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        case tuple():
            return [to_plain(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            kind: Any = type(value)
            return {name: _tagged(getattr(value, name), wanted) for name, wanted in _fields(kind).items()}


def from_plain(wanted: type[T], plain: object) -> T:
    """The value of type `wanted`. Raises `Invalid` when `plain` is not what `to_plain` makes of one."""
    value: T = _read(wanted, plain, wanted.__name__)
    return value


def _tagged(value: object, wanted: Any) -> Any:
    plain = to_plain(value)
    if len(_dataclasses_of(wanted)) > 1 and dataclasses.is_dataclass(value):
        return {_TAG: type(value).__name__, **plain}
    if typing.get_origin(wanted) is tuple and isinstance(value, tuple):
        return [_tagged(item, kind) for item, kind in zip(value, _kinds(wanted, len(value)), strict=True)]
    return plain


def _read(wanted: Any, plain: Any, key: str) -> Any:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return _read_union(wanted, plain, key)
    if typing.get_origin(wanted) is tuple and isinstance(plain, list):
        kinds = _kinds(wanted, len(plain))
        if len(kinds) == len(plain):
            items = enumerate(zip(kinds, plain, strict=True))
            return tuple(_read(kind, item, f"{key}[{number}]") for number, (kind, item) in items)
    if dataclasses.is_dataclass(wanted) and isinstance(plain, Mapping):
        return _read_dataclass(wanted, plain, key)
    try:
        if wanted is datetime:
            return datetime.fromisoformat(plain)
        if isinstance(wanted, type) and issubclass(wanted, Enum):
            return wanted(plain)
    except (TypeError, ValueError):
        raise Invalid(key, f"{plain!r} is not a {wanted.__name__}") from None
    if wanted is float and plain in ("inf", "-inf"):
        return float(plain)
    is_number = wanted is float and type(plain) is int
    if wanted is type(plain) or is_number:
        return plain
    raise Invalid(key, f"{plain!r} is not of type {getattr(wanted, '__name__', wanted)}")


def _read_union(wanted: Any, plain: Any, key: str) -> Any:
    if plain is None and type(None) in typing.get_args(wanted):
        return None
    choices = _dataclasses_of(wanted)
    if len(choices) > 1:
        tag = plain.get(_TAG) if isinstance(plain, Mapping) else None
        for choice in choices:
            if choice.__name__ == tag:
                return _read(choice, {name: value for name, value in plain.items() if name != _TAG}, key)
        raise Invalid(key, f"{tag!r} is none of {', '.join(choice.__name__ for choice in choices)}")
    [only] = [choice for choice in typing.get_args(wanted) if choice is not type(None)]
    return _read(only, plain, key)


def _read_dataclass(wanted: Any, plain: Mapping[str, Any], key: str) -> Any:
    fields = _fields(wanted)
    if unknown := sorted(plain.keys() - fields.keys()):
        raise Invalid(f"{key}.{unknown[0]}", "is unknown to this version")
    values = {name: _read(fields[name], value, f"{key}.{name}") for name, value in plain.items()}
    try:
        return wanted(**values)
    except TypeError as error:
        raise Invalid(key, str(error)) from error


@cache
def _fields(wanted: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(wanted)
    return {field.name: hints[field.name] for field in dataclasses.fields(wanted)}


def _dataclasses_of(wanted: Any) -> tuple[type, ...]:
    if typing.get_origin(wanted) not in (typing.Union, types.UnionType):
        return ()
    return tuple(
        choice for choice in typing.get_args(wanted) if isinstance(choice, type) and dataclasses.is_dataclass(choice)
    )


def _kinds(wanted: Any, length: int) -> tuple[Any, ...]:
    """What each item of a tuple should be."""
    kinds = typing.get_args(wanted)
    return (kinds[0],) * length if len(kinds) == 2 and kinds[1] is Ellipsis else kinds
