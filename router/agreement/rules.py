"""When do two answers to the same request differ? Pure.

The rule follows from an output's datatype and shape:

| output | differs when |
|---|---|
| floats, last axis longer than 1 | the top class of a row is another one (a row with a NaN has none) |
| other floats | a value is off by more than `absolute`, and `relative` × the largest magnitude in both answers |
| integers, BOOL, BYTES | any element is another one |
| any | datatype or shape is another one, or the candidate has no such output |

NaN equals NaN, an infinity equals itself. Outputs that only the candidate has are nobody's concern: clients ask for
outputs by name. One row that differs makes the pair differ. The shape decides and not the values, so that the same
output is always held against the same rule; for an embedding or a box, whose last axis is not one of classes, the
rule is lenient: it sees what is largely different and not the last digits.

Large outputs are compared by what is kept of them (serving/answers.py): evenly spread values and rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from serving.answers import NO_CLASS, Answered, Failed, Form, OutputRecord

_RENDERED_VALUES = 10
_RENDERED_CHARACTERS = 120
_INTEGERS = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """For floats that are no class scores. `relative` is of the largest magnitude in both answers' output."""

    relative: float = 1e-3
    absolute: float = 1e-6


_DEFAULT = Tolerance()


def difference(stable: Answered, candidate: Answered | Failed, tolerance: Tolerance = _DEFAULT) -> str:
    """Why the answers differ, in words; empty when they do not."""
    if isinstance(candidate, Failed):
        return f"only stable answers, the candidate fails ({candidate.kind})"
    others = {output.name: output for output in candidate.outputs}
    for output in stable.outputs:
        other = others.get(output.name)
        reason = "the candidate has no such output" if other is None else _difference(output, other, tolerance)
        if reason:
            return f"{output.name}: {reason}"
    return ""


def rendered(what: Answered | Failed) -> Mapping[str, str]:
    """Output name → the beginning of its values, short enough for a line."""
    if isinstance(what, Failed):
        return {}
    return {output.name: _rendered(output) for output in what.outputs}


def _difference(stable: OutputRecord, candidate: OutputRecord, tolerance: Tolerance) -> str:
    if stable.datatype != candidate.datatype:
        return f"{stable.datatype} → {candidate.datatype}"
    if stable.shape != candidate.shape:
        return f"shape {list(stable.shape)} → {list(candidate.shape)}"
    if stable.data == candidate.data and stable.tops == candidate.tops:
        return ""
    if not stable.is_float:
        return _first_other_value(stable, candidate)
    if (stable.form, len(stable.data), len(stable.tops)) != (candidate.form, len(candidate.data), len(candidate.tops)):
        return "recorded in another way, by another version of Crossfade"
    if stable.has_classes:
        return _flip(stable.top_classes(), candidate.top_classes())
    return _distance(stable.values(), candidate.values(), tolerance)


def _flip(stable: np.ndarray, candidate: np.ndarray) -> str:
    flipped = np.flatnonzero(stable != candidate)
    if not len(flipped):
        return ""
    first = flipped[0]
    reason = f"top class {_class(stable[first])} → {_class(candidate[first])}"
    return reason if len(stable) == 1 else f"{reason}, in {len(flipped)} of {len(stable)} rows"


def _class(index: int) -> str:
    return "NaN" if index == NO_CLASS else str(index)


def _distance(stable: np.ndarray, candidate: np.ndarray, tolerance: Tolerance) -> str:
    same = (stable == candidate) | (np.isnan(stable) & np.isnan(candidate))
    if not (np.isfinite(stable) | same).all() or not (np.isfinite(candidate) | same).all():
        return "NaN or infinity on one side only"
    a, b = stable[~same].astype(np.float64), candidate[~same].astype(np.float64)
    if not len(a):
        return ""
    largest = max(_largest(stable), _largest(candidate))
    with np.errstate(over="ignore"):  # the difference of two huge doubles may be infinite, and is then too large
        off = float(np.abs(a - b).max())
    if off <= tolerance.absolute or off <= tolerance.relative * largest:
        return ""
    return f"differs by up to {off:.3g}, {off / largest:.2%} of the largest magnitude"


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if len(finite) else 0.0


def _first_other_value(stable: OutputRecord, candidate: OutputRecord) -> str:
    if Form.DIGEST in (stable.form, candidate.form) or stable.datatype == "BYTES":
        return "other values"
    dtype = _INTEGERS[stable.datatype]
    a, b = np.frombuffer(stable.data, dtype), np.frombuffer(candidate.data, dtype)
    others = np.flatnonzero(a != b)
    first = others[0]
    if len(a) == 1:
        return f"{a[first]} → {b[first]}"
    return f"{a[first]} → {b[first]} at {first}, {len(others)} of {len(a)} values differ"


def _rendered(output: OutputRecord) -> str:
    head = f"{output.datatype} {list(output.shape)}"
    if output.form is Form.DIGEST:
        return f"{head} digest {output.data.hex()[:12]}"
    if output.datatype == "BYTES":
        values = [repr(element) for element in _elements(output.data, _RENDERED_VALUES)]
    elif output.is_float:
        values = [f"{value:.6g}" for value in output.values()[:_RENDERED_VALUES].tolist()]
    else:
        values = [str(value) for value in np.frombuffer(output.data, _INTEGERS[output.datatype])[:_RENDERED_VALUES]]
    text = f"{head} {', '.join(values)}"
    if len(text) > _RENDERED_CHARACTERS:
        return text[:_RENDERED_CHARACTERS] + "…"
    return text if prod(output.shape) <= _RENDERED_VALUES else f"{text}, …"


def _elements(data: bytes, limit: int) -> list[bytes]:
    """The first elements of a BYTES tensor in binary form."""
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) < limit:
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        elements.append(data[at + 4 : end])
        at = end
    return elements
