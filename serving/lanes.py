"""Lanes: the requests that may share a batch because their shapes fit. Knows shapes, and nothing of what is in an
array.

Requests of equal non-batch shapes share a lane. Where the deployment names a padding mask, requests of about the same
length do as well: shorter ones are padded to the longest of their batch (see serving/padding.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from serving.latency import LatencyTable
from serving.levels import WEIGHTS
from serving.work import Work

if TYPE_CHECKING:
    import numpy as np

# Lengths that share a lane: up to the first edge, up to the second … Each is at most a third above the one before,
# beyond 24, so that what shares a lane can mostly share a batch.
_LENGTH_EDGES = (
    8,
    16,
    24,
    32,
    40,
    48,
    64,
    80,
    104,
    136,
    176,
    232,
    304,
    400,
    528,
    704,
    936,
    1248,
    1664,
    2216,
    2952,
    3936,
)

_MAX_LANES = 256


@dataclass(frozen=True, slots=True)
class PaddedAxis:
    """`inputs` may be padded with zeros at the end of `axis`, an axis of the whole array, so never 0."""

    axis: int
    inputs: tuple[str, ...]


class Lane:
    """Waiting requests of one shape, by level, each in order of `due_s`. `rows` and `waiting` count what lives."""

    __slots__ = ("level_rows", "queues", "rows", "table", "waiting")

    def __init__(self, table: LatencyTable) -> None:
        self.table = table
        self.queues: tuple[deque[Work], ...] = tuple(deque() for _ in WEIGHTS)
        self.level_rows = [0] * len(WEIGHTS)
        self.rows = 0
        self.waiting = 0

    def works(self) -> Iterator[Work]:
        """Also those that were cancelled and still lie here."""
        for queue in self.queues:
            yield from queue

    def clear(self) -> None:
        for queue in self.queues:
            queue.clear()
        self.level_rows = [0] * len(WEIGHTS)
        self.rows = self.waiting = 0


class Lanes:
    """Finds a request's lane by its shape.

    `ragged_inputs`: the inputs that have a free axis besides the batch axis; without any there is a single lane.
    `table`: measured with rows of `row_elements` elements (over the ragged inputs); other shapes start from it in
    proportion.
    """

    def __init__(
        self,
        table: LatencyTable,
        ragged_inputs: Sequence[str] = (),
        row_elements: int = 1,
        padded: PaddedAxis | None = None,
    ) -> None:
        self._table = table
        self._ragged_inputs = tuple(ragged_inputs)
        self._row_elements = max(row_elements, 1)
        self._padded = padded
        self.only = None if self._ragged_inputs else Lane(table)  # every request's
        self._lanes: dict[Hashable, Lane] = {}

    def place(self, work: Work) -> Lane:
        """Sets `work.lane` and `work.length`."""
        if self.only is not None:
            work.lane = self.only
            return self.only
        inputs = work.inputs
        shapes = tuple([inputs[name].shape[1:] for name in self._ragged_inputs])
        key: Hashable = shapes
        if self._padded is not None:
            work.length = self._length(inputs, self._padded)
            if work.length:
                key = (bisect_left(_LENGTH_EDGES, work.length), self._other_axes(inputs, self._padded))
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._new_lane(key, shapes)
        work.lane = lane
        return lane

    def _length(self, inputs: Mapping[str, np.ndarray], padded: PaddedAxis) -> int:
        """The common length along the padded axis; 0 when the inputs do not agree, so that only their equals join."""
        lengths = {inputs[name].shape[padded.axis] for name in padded.inputs}
        return lengths.pop() if len(lengths) == 1 else 0

    def _other_axes(self, inputs: Mapping[str, np.ndarray], padded: PaddedAxis) -> Hashable:
        shapes = []
        for name in self._ragged_inputs:
            shape = inputs[name].shape[1:]
            at = padded.axis - 1
            shapes.append(shape[:at] + shape[at + 1 :] if name in padded.inputs else shape)
        return tuple(shapes)

    def _new_lane(self, key: Hashable, shapes: tuple[tuple[int, ...], ...]) -> Lane:
        if len(self._lanes) >= _MAX_LANES:  # clients choose the shapes; what is known about rare ones is forgotten
            self._lanes = {known: lane for known, lane in self._lanes.items() if lane.waiting}
        factor = max(sum(prod(shape) for shape in shapes), 1) / self._row_elements
        lane = self._lanes[key] = Lane(self._table.scaled(factor))
        return lane
