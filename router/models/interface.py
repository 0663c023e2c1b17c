"""What changes for callers when another model answers them. Pure."""

from __future__ import annotations

from serving.signature import Signature, TensorSpec


def changes(live: Signature, new: Signature) -> tuple[str, ...]:
    """What a caller of the live model may notice, one by one, in words. Empty: nothing.

    Order does not count: tensors go by name. An input axis may become free, for then more is accepted; an output axis
    that was free may become fixed, for whoever read any size reads this one.
    """
    return (*_changes("input", live.inputs, new.inputs), *_changes("output", live.outputs, new.outputs))


def _changes(kind: str, live: tuple[TensorSpec, ...], new: tuple[TensorSpec, ...]) -> list[str]:
    before, after = {spec.name: spec for spec in live}, {spec.name: spec for spec in new}
    told = []
    added = [spec for spec in new if spec.name not in before]
    for spec in live:
        other = after.get(spec.name)
        if other is not None:
            told += _differences(kind, spec, other)
            continue
        heir = next((one for one in added if (one.datatype, one.shape) == (spec.datatype, spec.shape)), None)
        if heir is None:
            told.append(f"{kind} {spec.name!r} is gone")
        else:
            added.remove(heir)
            told.append(f"{kind} {spec.name!r} is called {heir.name!r}")
    return told + [f"{kind} {spec.name!r} is new ({spec.datatype} {list(spec.shape)})" for spec in added]


def _differences(kind: str, live: TensorSpec, new: TensorSpec) -> list[str]:
    told = []
    if live.datatype != new.datatype:
        told.append(f"{kind} {live.name!r} was {live.datatype} and is {new.datatype}")
    wide, narrow = (new, live) if kind == "input" else (live, new)
    if len(live.shape) != len(new.shape) or any(
        a not in (-1, b) for a, b in zip(wide.shape, narrow.shape, strict=True)
    ):
        told.append(f"{kind} {live.name!r} had shape {list(live.shape)} and has {list(new.shape)} (-1 is any size)")
    return told
