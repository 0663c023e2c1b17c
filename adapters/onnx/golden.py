"""Golden requests: what a model was shown to answer where it was trained, asked again before it may answer here.

    {"request":   {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
     "response":  {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [0.7]}]},
     "tolerance": {"relative": 0.001, "absolute": 0.000001}}

Request and response are those of the Open Inference Protocol, version 2, in JSON; what `crossfade endpoint invoke`
prints is such a response. Of the outputs, those in the response are compared. Floats may be off by `absolute`, or by
`relative` times the expected value; null is NaN; everything else must be equal.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from posixpath import basename
from typing import Any

import numpy as np
import orjson

from router.models.ports import AdmissionRefused
from router.models.trial import Check
from serving.errors import ScoringError
from serving.exchange import HttpRequest
from serving.json_tensors import decode_json
from serving.model_contract import ModelContract
from serving.oip_http import HttpCodec
from serving.ports import Backend
from serving.signature import TensorSpec
from serving.tensors import DATATYPES

MAX_BYTES = 64 * 1024 * 1024
_RELATIVE, _ABSOLUTE = 1e-3, 1e-6
_FLOATS = ("FP16", "BF16", "FP32", "FP64")


class GoldenRequest:
    """One file. Raises `AdmissionRefused` when it cannot be read or is not as described above."""

    def __init__(self, path: str) -> None:
        self.name = basename(path)
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise self._unusable(f"it is larger than {MAX_BYTES // 1024**2} MiB")
            document = json.loads(content)
            self._request: bytes = orjson.dumps(document["request"])
            self._expected: list[dict[str, Any]] = list(document["response"]["outputs"])
            tolerance = {"relative": _RELATIVE, "absolute": _ABSOLUTE, **document.get("tolerance", {})}
            self._relative, self._absolute = float(tolerance.pop("relative")), float(tolerance.pop("absolute"))
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._unusable("it is not JSON with a request and a response that has outputs") from None
        if tolerance or not self._expected or not (self._relative >= 0 and self._absolute >= 0):
            raise self._unusable("it expects no output, or has a tolerance that is none")

    def check(self, backend: Backend) -> None:
        """Ask, and compare. Raises `AdmissionRefused`."""
        signature = backend.signature
        specs = {spec.name: spec for spec in signature.outputs}
        names = [str(output.get("name")) if isinstance(output, dict) else "" for output in self._expected]
        for name in names:
            if name not in specs:
                raise self._refused(f"expects the output {name!r}, which the model does not have")
        codec = HttpCodec(ModelContract(signature, int(signature.is_batchable)), MAX_BYTES)
        try:
            # Which outputs are wanted is not the request's to say here: all those that are expected.
            request = codec.decode(HttpRequest(b"POST", b"", {}, self._with_outputs(names)))
            answers = backend.run(request.inputs, names)
        except ScoringError as error:
            raise self._refused(f"was not answered: {error}") from None
        for expected, answer in zip(self._expected, answers, strict=True):
            self._compare(specs[expected["name"]], expected, answer)

    def _with_outputs(self, names: list[str]) -> bytes:
        request = orjson.loads(self._request)
        if not isinstance(request, dict):
            raise self._unusable("its request is no object")
        wanted = [{"name": name, "parameters": {"binary_data": True}} for name in names]
        return orjson.dumps(request | {"outputs": wanted})

    def _compare(self, spec: TensorSpec, expected: dict[str, Any], answer: np.ndarray) -> None:
        wanted = self._tensor(spec, expected)
        what = f"output {spec.name!r}"
        if wanted.shape != answer.shape:
            raise self._refused(f"expects {what} of shape {list(wanted.shape)}, and got {list(answer.shape)}")
        if spec.datatype in _FLOATS:
            a, b = answer.astype(np.float64), wanted.astype(np.float64)
            is_same = np.isclose(a, b, rtol=self._relative, atol=self._absolute, equal_nan=True)
        else:
            is_same = np.asarray(answer == wanted)
        if is_same.all():
            return
        where = tuple(int(axis) for axis in np.argwhere(~is_same)[0])
        raise self._refused(
            f"expects {what} to be {_value(wanted[where])} at {list(where)}, and got {_value(answer[where])}"
            f" ({int((~is_same).sum())} of {is_same.size} values differ)"
        )

    def _tensor(self, spec: TensorSpec, expected: dict[str, Any]) -> np.ndarray:
        shape, data = expected.get("shape"), expected.get("data")
        if not isinstance(shape, list) or not all(type(axis) is int and axis >= 0 for axis in shape):
            raise self._unusable(f"the output {spec.name!r} has no shape")
        if expected.get("datatype") != spec.datatype:
            raise self._refused(
                f"expects the output {spec.name!r} as {expected.get('datatype')}, and it is {spec.datatype}"
            )
        datatype = spec.datatype
        if datatype in _FLOATS:
            datatype = "FP64"  # JSON has no other
            data = _with_nan(data)
        try:
            return decode_json(spec.name, DATATYPES[datatype], tuple(shape), prod(shape), data)
        except ScoringError as error:
            raise self._unusable(f"its response: {error}") from None

    def _refused(self, found: str) -> AdmissionRefused:
        return AdmissionRefused(
            Check.GOLDEN, f"{self.name!r} {found}", "serve the model that it was made with, or make it again"
        )

    def _unusable(self, why: str) -> AdmissionRefused:
        return AdmissionRefused(Check.GOLDEN, f"{self.name!r} cannot be used: {why}", "make it again, or leave it out")


def _with_nan(data: object) -> object:
    if isinstance(data, list):
        return [_with_nan(value) for value in data]
    return float("nan") if data is None else data


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else repr(value)
