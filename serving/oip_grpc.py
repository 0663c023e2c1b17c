"""The Open Inference Protocol's infer call over gRPC: `inference.ModelInferRequest` in, `ModelInferResponse` out.

Inputs come raw or typed; outputs always go raw, because that is what clients read (tritonclient looks nowhere else).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from serving.addressing import check_model
from serving.errors import BadRequest
from serving.exchange import HttpResponse
from serving.grpc_framing import message_response
from serving.json_tensors import decode_values
from serving.messages import InferReply, InferRequest, Parameter, RequestedOutput
from serving.model_contract import ModelContract
from serving.parameters import check_input_parameters, check_output_parameters, check_request_parameters
from serving.tensors import DATATYPES, Datatype, decode_binary, encode_binary, object_array
from serving.text import quoted

# Smaller integers travel in the 32-bit fields; FP16 and BF16 have no typed field.
_CONTENTS_FIELD = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_ID_TAG = b"\x1a"  # ModelInferResponse.id: field 3, length-delimited
_RAW_TAG = b"\x32"  # ModelInferResponse.raw_output_contents: field 6, length-delimited
_MAX_HEADS = 256

_NO_PARAMETERS: dict[str, Parameter] = {}


class GrpcCodec:
    """Decodes infer requests for one model and encodes its replies."""

    __slots__ = ("_contract", "_heads", "_model_name", "_model_version")

    def __init__(self, contract: ModelContract, model_name: str, model_version: str) -> None:
        self._contract = contract
        self._model_name = model_name
        self._model_version = model_version
        self._heads: dict[object, bytes] = {}

    def decode(self, message: bytes) -> InferRequest:
        """A request that fits the model. Raises `BadRequest`, or `UnknownModel` for another model or version."""
        request = parse_message(service_pb2.ModelInferRequest, message)
        check_model(request.model_name, request.model_version, self._model_name, self._model_version)
        raw = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise BadRequest(f"the request has {len(request.inputs)} inputs but {len(raw)} raw_input_contents")
        inputs: dict[str, np.ndarray] = {}
        for index, tensor in enumerate(request.inputs):
            name = tensor.name
            contract = self._contract.input(name, inputs)
            shape = tuple(tensor.shape)
            count = contract.element_count(tensor.datatype, shape)
            if tensor.parameters:
                check_input_parameters(name, tensor.parameters)
            if raw:
                if tensor.HasField("contents") and tensor.contents.ListFields():
                    raise BadRequest(f"input {name!r} has contents, which raw_input_contents excludes")
                inputs[name] = decode_binary(name, contract.datatype, shape, count, raw[index])
            else:
                inputs[name] = _decode_contents(name, contract.datatype, shape, count, tensor.contents)
        self._contract.check_inputs(inputs)
        parameters = _NO_PARAMETERS
        if request.parameters:
            parameters = _parameters(request.parameters)
            check_request_parameters(parameters)
        outputs = self._outputs(request.outputs) if request.outputs else ()
        return InferRequest(request.id, inputs, outputs, parameters)

    def encode(self, reply: InferReply) -> HttpResponse:
        """Raises `ModelFailed` when an output is not what it should be."""
        return message_response(*self.encoded(reply))

    def encoded(self, reply: InferReply) -> tuple[list[bytes | memoryview], int]:
        """The message in parts, and its size. Raises as `encode` does.

        Everything but the id and the tensors' bytes is the same for equal shapes, and protobuf lets a message be
        written in pieces: so that part is kept, and the rest is appended. 1.2 µs instead of 2.0 µs for ten
        floats, and 2 µs instead of 1,330 µs for 600 KB, which protobuf spends on growing its buffer.
        """
        outputs = reply.outputs
        shapes = tuple([(name, array.shape) for name, _, array in outputs])
        head = self._heads.get(shapes) or self._remember_head(shapes, reply)
        if reply.id:
            echoed = reply.id.encode()
            head += _ID_TAG + varint(len(echoed)) + echoed
        parts: list[bytes | memoryview] = [head]
        size = len(head)
        for name, datatype, array in outputs:
            blob = encode_binary(name, DATATYPES[datatype], array)
            prefix = _RAW_TAG + varint(len(blob))
            parts += (prefix, blob)
            size += len(prefix) + len(blob)
        return parts, size

    def _outputs(self, tensors: Any) -> tuple[RequestedOutput, ...]:
        for tensor in tensors:
            if tensor.parameters:
                check_output_parameters(tensor.name, _parameters(tensor.parameters))
        outputs = tuple([RequestedOutput(tensor.name, True) for tensor in tensors])
        self._contract.check_outputs(outputs)
        return outputs

    def _remember_head(self, shapes: object, reply: InferReply) -> bytes:
        head: bytes = service_pb2.ModelInferResponse(
            model_name=reply.model_name,
            model_version=reply.model_version,
            outputs=[
                service_pb2.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=array.shape)
                for name, datatype, array in reply.outputs
            ],
        ).SerializeToString()
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[shapes] = head
        return head


def parse_message(kind: Any, message: bytes) -> Any:
    """A protobuf message of type `kind`; raises `BadRequest`."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise BadRequest(f"the message is not a valid {kind.DESCRIPTOR.full_name}") from None


def _decode_contents(name: str, datatype: Datatype, shape: tuple[int, ...], count: int, contents: Any) -> np.ndarray:
    field = _CONTENTS_FIELD.get(datatype.name)
    if field is None:
        raise BadRequest(f"input {name!r}: {datatype.name} has no typed contents, use raw_input_contents")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise BadRequest(f"input {name!r} is {datatype.name}, which travels in {field}, not {descriptor.name}")
    values = list(getattr(contents, field))
    if not datatype.is_bytes:
        return decode_values(name, datatype, shape, count, values)
    if len(values) != count:
        raise BadRequest(f"input {name!r} has {len(values)} values, but its shape takes {count}")
    return object_array(values, shape)


def _parameters(given: Mapping[str, Any]) -> dict[str, Parameter]:
    parameters: dict[str, Parameter] = {}
    for key, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise BadRequest(f"parameter {quoted(key)} has no value")
        parameters[key] = getattr(value, choice)
    return parameters


def varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "little")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
