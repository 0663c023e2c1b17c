from __future__ import annotations

import pytest

from router.models.interface import changes
from serving.signature import Signature, TensorSpec

X = TensorSpec("x", "FP32", (-1, 3))
Y = TensorSpec("y", "FP32", (-1, 10))


def signature(inputs: tuple[TensorSpec, ...] = (X,), outputs: tuple[TensorSpec, ...] = (Y,)) -> Signature:
    return Signature(inputs, outputs, is_batchable=True)


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (signature((TensorSpec("x", "FP64", (-1, 3)),)), ["input 'x' was FP32 and is FP64"]),
        (
            signature((TensorSpec("x", "FP32", (-1, 4)),)),
            ["input 'x' had shape [-1, 3] and has [-1, 4] (-1 is any size)"],
        ),
        (
            signature((TensorSpec("x", "FP32", (8, 3)),)),
            ["input 'x' had shape [-1, 3] and has [8, 3] (-1 is any size)"],
        ),
        (
            signature((TensorSpec("x", "FP32", (-1, 3, 1)),)),
            ["input 'x' had shape [-1, 3] and has [-1, 3, 1] (-1 is any size)"],
        ),
        (signature((X, TensorSpec("mask", "INT64", (-1,)))), ["input 'mask' is new (INT64 [-1])"]),
        (signature((TensorSpec("pixels", "FP32", (-1, 3)),)), ["input 'x' is called 'pixels'"]),
        (
            signature((TensorSpec("pixels", "UINT8", (-1, 3)),)),
            ["input 'x' is gone", "input 'pixels' is new (UINT8 [-1, 3])"],
        ),
        (
            signature(outputs=(TensorSpec("y", "FP32", (-1, 11)),)),
            ["output 'y' had shape [-1, 10] and has [-1, 11] (-1 is any size)"],
        ),
        (
            signature(outputs=(TensorSpec("y", "FP32", (-1, -1)),)),
            ["output 'y' had shape [-1, 10] and has [-1, -1] (-1 is any size)"],
        ),
        (signature(outputs=(Y, TensorSpec("z", "BYTES", (-1,)))), ["output 'z' is new (BYTES [-1])"]),
        (
            signature((TensorSpec("x", "INT8", (3,)),), ()),
            [
                "input 'x' was FP32 and is INT8",
                "input 'x' had shape [-1, 3] and has [3] (-1 is any size)",
                "output 'y' is gone",
            ],
        ),
    ],
)
def test_every_change_is_told(new: Signature, told: list[str]) -> None:
    assert list(changes(signature(), new)) == told


def test_the_same_signature_changes_nothing_in_any_order() -> None:
    mask = TensorSpec("mask", "INT64", (-1, 3))
    assert changes(signature((X, mask)), signature((mask, X))) == ()


def test_more_may_be_accepted_and_less_may_be_promised() -> None:
    live = signature((TensorSpec("x", "FP32", (1, 3)),), (TensorSpec("y", "FP32", (-1, -1)),))
    assert changes(live, signature()) == ()


def test_two_tensors_that_trade_places_are_two_changes() -> None:
    a, b = TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1, 3))
    new = signature((TensorSpec("c", "FP32", (-1, 3)), TensorSpec("d", "FP32", (-1, 3))))
    assert changes(signature((a, b)), new) == ("input 'a' is called 'c'", "input 'b' is called 'd'")
