"""A scoring request and its reply, free of any protocol. Codecs make and read them; the batcher and backends use them.

Plain slotted classes: these are made for every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Parameter = bool | int | float | str


class RequestedOutput:
    """One output that the client asked for; `binary` says how HTTP should carry it."""

    __slots__ = ("binary", "name")

    def __init__(self, name: str, binary: bool) -> None:
        self.name = name
        self.binary = binary


class InferRequest:
    """A decoded request that fits the model's signature.

    `inputs`: input name → array of the signature's dtype; BYTES tensors are object arrays of `bytes`.
    `outputs`: the requested outputs in order; empty means all of the model's outputs.
    `binary_by_default`: HTTP only, whether outputs without their own setting travel as binary data.
    """

    __slots__ = ("binary_by_default", "id", "inputs", "outputs", "parameters")

    def __init__(
        self,
        id: str,
        inputs: dict[str, np.ndarray],
        outputs: tuple[RequestedOutput, ...] = (),
        parameters: dict[str, Parameter] | None = None,
        binary_by_default: bool = False,
    ) -> None:
        self.id = id
        self.inputs = inputs
        self.outputs = outputs
        self.parameters = parameters or {}
        self.binary_by_default = binary_by_default


class InferReply:
    """Outputs in the order they are to be sent: (name, V2 datatype, array)."""

    __slots__ = ("id", "model_name", "model_version", "outputs")

    def __init__(
        self, model_name: str, model_version: str, id: str, outputs: list[tuple[str, str, np.ndarray]]
    ) -> None:
        self.model_name = model_name
        self.model_version = model_version
        self.id = id
        self.outputs = outputs
