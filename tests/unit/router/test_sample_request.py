"""Made-up requests: they fit the model's metadata."""

from __future__ import annotations

import json
import math
from random import Random

import pytest

from router.domain.errors import Invalid
from router.sample_request import FREE_AXIS, sample_request


def sampled(datatype: str, shape: list[int]) -> dict[str, object]:
    request = sample_request({"inputs": [{"name": "x", "datatype": datatype, "shape": shape}]}, Random(1))
    (tensor,) = request["inputs"]
    return dict(tensor)


@pytest.mark.parametrize(
    ("datatype", "kind"),
    [("FP32", float), ("FP64", float), ("INT8", int), ("INT64", int), ("UINT64", int), ("BOOL", bool), ("BYTES", str)],
)
def test_every_datatype_that_json_can_carry_is_filled(datatype: str, kind: type) -> None:
    tensor = sampled(datatype, [-1, 3])
    assert tensor["shape"] == [1, 3]
    data = tensor["data"]
    assert isinstance(data, list)
    assert [type(value) for value in data] == [kind] * 3


def test_free_axes_get_a_size_and_the_data_fills_the_shape() -> None:
    tensor = sampled("FP32", [-1, 3, -1, -1])
    assert tensor["shape"] == [1, 3, FREE_AXIS, FREE_AXIS]
    data = tensor["data"]
    assert isinstance(data, list)
    assert len(data) == math.prod([1, 3, FREE_AXIS, FREE_AXIS])


def test_the_same_random_source_gives_the_same_request_and_it_is_json() -> None:
    metadata = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
    one, two = (json.dumps(sample_request(metadata, Random(7), rows=2)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "names no inputs"),
        ({"inputs": [{"name": "x", "datatype": "FP16", "shape": [1]}]}, "JSON cannot carry"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [10**7]}]}, "10000000 elements"),
    ],
)
def test_what_cannot_be_made_up_is_refused(metadata: dict[str, object], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        sample_request(metadata, Random(1))
