"""A model in NumPy that reads a padding mask as text encoders do, and ways in which such a model can be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np

from serving.signature import Signature, TensorSpec

MASK = "attention_mask"


class MaskedBackend:
    """`tokens` [N,S] = 2·`input_ids` where the mask is 1; `mean` [N] = their mean over what the mask says is there.

    `ignores_mask`: the mean is over all positions, so padding shows. `shapes` remembers what ran.
    """

    parallelism = 1
    trouble = ""

    def __init__(self, ignores_mask: bool = False) -> None:
        self._ignores_mask = ignores_mask
        self.shapes: list[tuple[int, ...]] = []
        self.signature = Signature(
            (TensorSpec("input_ids", "INT64", (-1, -1)), TensorSpec(MASK, "INT64", (-1, -1))),
            (TensorSpec("tokens", "FP32", (-1, -1)), TensorSpec("mean", "FP32", (-1,))),
            is_batchable=True,
        )

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = inf
    ) -> list[np.ndarray]:
        ids, mask = inputs["input_ids"], inputs[MASK]
        self.shapes.append(ids.shape)
        tokens = (2 * ids * mask).astype(np.float32)
        count = mask.shape[1] if self._ignores_mask else np.maximum(mask.sum(axis=1), 1)
        results = {"tokens": tokens, "mean": (tokens.sum(axis=1) / count).astype(np.float32)}
        return [results[name] for name in outputs]

    def close(self) -> None:
        """Nothing to free."""


def text(length: int, rows: int = 1, first: int = 1) -> dict[str, np.ndarray]:
    """`rows` rows of `length` different tokens."""
    ids = np.arange(first, first + rows * length, dtype=np.int64).reshape(rows, length)
    return {"input_ids": ids, MASK: np.ones_like(ids)}
