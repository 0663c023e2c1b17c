"""What a request to one model must obey: names, datatypes, shapes, rows. Computed once, checked for every request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np

from serving.errors import BadRequest
from serving.messages import RequestedOutput
from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES, Datatype
from serving.text import quoted, shape_text

# No tensor that fits into a request has more elements; shapes beyond it are refused before anything is multiplied out.
_MAX_ELEMENTS = 2**48


class InputContract:
    """One input of the model. `shape` holds -1 for free axes."""

    __slots__ = ("datatype", "name", "shape")

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.datatype: Datatype = DATATYPES[spec.datatype]
        self.shape = spec.shape

    def element_count(self, datatype: object, shape: Sequence[object]) -> int:
        """How many elements a tensor of this shape has. Raises `BadRequest` when it does not fit the model."""
        if datatype != self.datatype.name:
            raise BadRequest(f"input {self.name!r} is {self.datatype.name}, got {quoted(datatype)}")
        if len(shape) != len(self.shape):
            raise self._wrong_shape(shape)
        count = 1
        largest = 1  # like count, but without the zeros that would hide an overflow
        for axis, expected in zip(shape, self.shape, strict=True):
            if type(axis) is not int or axis < 0 or (axis != expected and expected != -1):
                raise self._wrong_shape(shape)
            count *= axis
            largest *= axis or 1
        if largest > _MAX_ELEMENTS:
            raise BadRequest(f"input {self.name!r}: shape {shape_text(shape)} is too large")
        return count

    def _wrong_shape(self, shape: Sequence[object]) -> BadRequest:
        return BadRequest(
            f"input {self.name!r} takes shape {list(self.shape)} (-1 is any size), got {shape_text(shape)}"
        )


class ModelContract:
    """The model's inputs and outputs by name. `inputs` keeps the signature's order."""

    __slots__ = ("_joins_rows", "binary_only_outputs", "inputs", "output_datatypes")

    def __init__(self, signature: Signature, max_batch_size: int) -> None:
        self.inputs = {spec.name: InputContract(spec) for spec in signature.inputs}
        self.output_datatypes = {spec.name: DATATYPES[spec.datatype] for spec in signature.outputs}
        self.binary_only_outputs = tuple(
            name for name, datatype in self.output_datatypes.items() if not datatype.has_json_form
        )
        self._joins_rows = max_batch_size > 0

    def input(self, name: str, given: Mapping[str, np.ndarray]) -> InputContract:
        """The input called `name`; raises `BadRequest` when there is none or it has been `given` already."""
        contract = self.inputs.get(name)
        if contract is None:
            raise BadRequest(f"the model has no input {quoted(name)}, its inputs are {_names(self.inputs)}")
        if name in given:
            raise BadRequest(f"input {quoted(name)} is given twice")
        return contract

    def check_inputs(self, given: Mapping[str, np.ndarray]) -> None:
        """Raises `BadRequest` when an input is missing, or when the rows (axis 0) of the inputs differ."""
        if len(given) != len(self.inputs):
            raise BadRequest(f"inputs are missing: {_names(name for name in self.inputs if name not in given)}")
        if not self._joins_rows:
            return
        rows = {array.shape[0] for array in given.values()}
        if len(rows) > 1:
            counts = ", ".join(f"{name!r} has {array.shape[0]}" for name, array in given.items())
            raise BadRequest(f"all inputs must have the same number of rows (axis 0): {counts}")
        if 0 in rows:
            raise BadRequest("the inputs have no rows (axis 0 is 0)")

    def raw_shape(self, contract: InputContract, size_bytes: int) -> tuple[int, ...]:
        """The shape of one row of an input that came as `size_bytes` of binary data and nothing else.

        One free axis may be deduced from the size. Raises `BadRequest` when there are more.
        """
        shape = list(contract.shape)
        if self._joins_rows:
            shape[0] = 1
        free = [axis for axis, length in enumerate(shape) if length == -1]
        if len(free) > 1 or (free and contract.datatype.is_bytes):
            raise BadRequest(
                f"input {contract.name!r} has shape {list(contract.shape)}: its free axes cannot be deduced from the"
                " size of a raw binary request, send a request with a JSON header"
            )
        if free:
            row_bytes = contract.datatype.dtype.itemsize * prod(length for length in shape if length != -1)
            shape[free[0]] = size_bytes // row_bytes if row_bytes else 0
        return tuple(shape)

    def check_outputs(self, requested: Sequence[RequestedOutput]) -> None:
        """Raises `BadRequest` for an output that the model does not have, or that is asked for twice."""
        seen = set()
        for output in requested:
            if output.name not in self.output_datatypes:
                raise BadRequest(
                    f"the model has no output {quoted(output.name)}, its outputs are {_names(self.output_datatypes)}"
                )
            if output.name in seen:
                raise BadRequest(f"output {quoted(output.name)} is requested twice")
            seen.add(output.name)


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
