"""What the trial's process and whoever started it say to each other: JSON, one finding a line.

Whoever reads it does not trust it: a hostile model may have taken the process over. It can then still lie about the
model, and do nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adapters.onnx.signature import DATATYPES
from router.models.ports import AdmissionRefused
from router.models.trial import Check, Finding, GraphFacts, Loaded, Ran, TrialJob, TrialLimits
from serving.signature import Signature, TensorSpec

MAX_LINE_BYTES = 16 * 1024 * 1024  # a model may have its weights in thousands of files
MAX_LINES = 20_000
_MAX_TEXT = 2000
_DATATYPES = frozenset(DATATYPES.values())


class Garbled(Exception):
    """A line that no trial writes."""


@dataclass(frozen=True, slots=True)
class Entered:
    """What the process does from now on."""

    check: Check
    what: str = ""


Line = Finding | Entered | AdmissionRefused

_FINDINGS: dict[str, type[Finding]] = {"graph": GraphFacts, "loaded": Loaded, "ran": Ran}


def job_line(job: TrialJob) -> bytes:
    return json.dumps(asdict(job)).encode()


def read_job(line: bytes) -> TrialJob:
    """Of whoever started this process, which is trusted."""
    said = json.loads(line)
    lists = {key: tuple(said[key]) for key in ("graphs", "golden")}
    return TrialJob(**(said | lists | {"limits": TrialLimits(**said["limits"])}))


def line_of(what: Line) -> bytes:
    match what:
        case AdmissionRefused():
            said: dict[str, Any] = {"refused": [what.check, what.found[:_MAX_TEXT], what.to_do[:_MAX_TEXT]]}
        case Entered():
            said = {"entered": [what.check, what.what[:_MAX_TEXT]]}
        case _:
            kind = next(kind for kind, type_ in _FINDINGS.items() if type(what) is type_)
            said = {kind: asdict(what)}
    return json.dumps(said).encode() + b"\n"


def read_line(line: bytes) -> Line:
    """Raises `Garbled` for anything but what `line_of` writes."""
    try:
        ((kind, said),) = json.loads(line).items()
        match kind:
            case "refused":
                check, found, to_do = said
                return AdmissionRefused(Check(check), _printable(found), _printable(to_do))
            case "entered":
                check, what = said
                return Entered(Check(check), _printable(what))
            case "graph":
                return _graph(said)
            case "loaded":
                return Loaded(_signature(said["signature"]), _printable(said["runtime"]), _seconds(said["load_s"]))
            case "ran":
                return Ran(_count(said["golden"]), _seconds(said["run_s"]), _count(said["peak_bytes"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Garbled(type(error).__name__) from None
    raise Garbled(f"an unknown word {kind[:40]!r}")


def _graph(said: Mapping[str, Any]) -> GraphFacts:
    return GraphFacts(
        path=_text(said["path"]),
        ir_version=_whole(said["ir_version"]),
        opsets=tuple((_printable(domain), _whole(version)) for domain, version in said["opsets"]),
        nodes=_count(said["nodes"]),
        subgraphs=_count(said["subgraphs"]),
        functions=_count(said["functions"]),
        external=tuple(_text(path) for path in said["external"]),
    )


def _signature(said: Mapping[str, Any]) -> Signature:
    is_batchable = said["is_batchable"]
    if not isinstance(is_batchable, bool):
        raise ValueError
    inputs, outputs = (tuple(_tensor(tensor) for tensor in said[key]) for key in ("inputs", "outputs"))
    return Signature(inputs, outputs, is_batchable)


def _tensor(said: Mapping[str, Any]) -> TensorSpec:
    if said["datatype"] not in _DATATYPES:
        raise ValueError
    return TensorSpec(_text(said["name"]), said["datatype"], tuple(_whole(axis) for axis in said["shape"]))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 2 * _MAX_TEXT:
        raise ValueError
    return value


def _printable(value: object) -> str:
    """For people's terminals: the model has its say in ONNX Runtime's messages."""
    return "".join(character if character.isprintable() else "?" for character in _text(value))


def _whole(value: object) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _count(value: object) -> int:
    if _whole(value) < 0:
        raise ValueError
    return _whole(value)


def _seconds(value: object) -> float:
    if not isinstance(value, float | int) or not math.isfinite(value) or value < 0:
        raise ValueError
    return float(value)
