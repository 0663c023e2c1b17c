"""The Open Inference Protocol's infer call over HTTP: JSON, Triton's binary extension, and both mixed.

A request is a JSON object, followed by the binary data of those inputs that carry `binary_data_size`, in order; the
header Inference-Header-Content-Length then says where the JSON ends, counted before compression. Value 0 means that
the whole body is the only input's binary data. Outputs are flat JSON arrays, or binary data where asked for.

Non-finite numbers: the literals NaN, Infinity and -Infinity, which tritonclient writes, are read; in replies they
become null (see json_tensors.py). FP16 and BF16 travel as binary data only.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson

from serving.big_json import BIG_BYTES, BigJson
from serving.compression import compress, decompress, response_encoding
from serving.errors import BadRequest
from serving.exchange import Header, HttpRequest, HttpResponse
from serving.json_tensors import decode_json, encode_json, may_hold_booleans
from serving.messages import InferReply, InferRequest, Parameter, RequestedOutput
from serving.model_contract import InputContract, ModelContract
from serving.parameters import check_input_parameters, check_output_parameters, check_request_parameters
from serving.replies import JSON_TYPE
from serving.tensors import DATATYPES, decode_binary, encode_binary
from serving.text import quoted

_BINARY_TYPE: Header = (b"content-type", b"application/octet-stream")
_JSON_LENGTH = b"inference-header-content-length"
_SCALARS = (bool, int, float, str)
_NO_PARAMETERS: dict[str, Parameter] = {}


class HttpCodec:
    """Decodes infer requests for one model and encodes its replies."""

    __slots__ = ("_big_json", "_contract", "_max_request_bytes")

    def __init__(self, contract: ModelContract, max_request_bytes: int) -> None:
        self._big_json = BigJson()
        self._contract = contract
        self._max_request_bytes = max_request_bytes

    def decode(self, request: HttpRequest) -> InferRequest:
        """A request that fits the model, its arrays being views of the body where possible.

        Raises `BadRequest`, `TooLarge` or `UnsupportedEncoding`.
        """
        headers = request.headers
        body = request.body
        encoding = headers.get(b"content-encoding")
        if encoding is not None:
            body = bytes(decompress(body, encoding, self._max_request_bytes))
        length_header = headers.get(_JSON_LENGTH)
        if length_header is None:
            return self._decode_document(body, None, body)
        json_length = _json_length(length_header, len(body))
        if json_length == 0:
            return self._decode_raw(body)
        return self._decode_document(memoryview(body)[:json_length], json_length, body)

    def encode(self, request: InferRequest, reply: InferReply, accept_encoding: bytes | None) -> HttpResponse:
        """Raises `BadRequest` when an output cannot travel as JSON, `ModelFailed` when it is not what it should be."""
        requested = {output.name: output.binary for output in request.outputs}
        outputs: list[dict[str, Any]] = []
        blobs: list[bytes | memoryview] = []
        for name, datatype, array in reply.outputs:
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
            if requested.get(name, request.binary_by_default):
                blob = encode_binary(name, DATATYPES[datatype], array)
                output["parameters"] = {"binary_data_size": len(blob)}
                blobs.append(blob)
            else:
                output["data"] = encode_json(name, DATATYPES[datatype], array)
            outputs.append(output)
        document: dict[str, Any] = {"model_name": reply.model_name, "model_version": reply.model_version}
        if reply.id:
            document["id"] = reply.id
        document["outputs"] = outputs
        text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        return _response(text, blobs, response_encoding(accept_encoding) if accept_encoding else None)

    def _decode_document(self, text: bytes | memoryview, json_length: int | None, body: bytes) -> InferRequest:
        document = self._big_json.parse(text) if isinstance(text, bytes) and len(text) >= BIG_BYTES else None
        if document is None:
            document = _parse_object(text)
        can_hold_booleans: bool | None = None
        parameters = _parameters(document, "the request")
        inputs: dict[str, np.ndarray] = {}
        blob_start = json_length
        for item in _list(document, "inputs"):
            name, contract = self._input(item, inputs)
            shape = _list(item, "shape")
            count = contract.element_count(item.get("datatype"), shape)
            item_parameters = _parameters(item, "an input")
            size = None
            if item_parameters:
                check_input_parameters(name, item_parameters)
                size = item_parameters.get("binary_data_size")
            data = item.get("data")
            if size is None:
                if data is None:
                    raise BadRequest(f"input {name!r} has neither 'data' nor 'binary_data_size'")
                if can_hold_booleans is None:
                    can_hold_booleans = not isinstance(data, np.ndarray) and may_hold_booleans(bytes(text))
                inputs[name] = decode_json(name, contract.datatype, tuple(shape), count, data, can_hold_booleans)
                continue
            if data is not None:
                raise BadRequest(f"input {name!r} has both 'data' and 'binary_data_size'")
            if blob_start is None:
                raise BadRequest(f"input {name!r} is binary, but the header Inference-Header-Content-Length is missing")
            end = blob_start + _blob_size(name, size, len(body) - blob_start)
            inputs[name] = decode_binary(
                name, contract.datatype, tuple(shape), count, body, blob_start, end - blob_start
            )
            blob_start = end
        if blob_start is not None and blob_start != len(body):
            raise BadRequest(f"{len(body) - blob_start} bytes are left over after the binary data of the last input")
        self._contract.check_inputs(inputs)
        by_default = False
        if parameters:
            check_request_parameters(parameters)
            by_default = _boolean(parameters, "binary_data_output", False)
        outputs = self._outputs(document, by_default)
        return InferRequest(_id(document), inputs, outputs, parameters, by_default)

    def _decode_raw(self, body: bytes) -> InferRequest:
        """The whole body is the binary data of one row of the only input; all outputs come back as binary data."""
        if len(self._contract.inputs) != 1:
            raise BadRequest(
                f"a raw binary request needs a model with 1 input, this one has {len(self._contract.inputs)}"
            )
        (contract,) = self._contract.inputs.values()
        if contract.datatype.is_bytes:
            # A single element, without the length that BYTES elements have elsewhere.
            body = len(body).to_bytes(4, "little") + body
        shape = self._contract.raw_shape(contract, len(body))
        count = contract.element_count(contract.datatype.name, shape)
        inputs = {contract.name: decode_binary(contract.name, contract.datatype, shape, count, body)}
        return InferRequest("", inputs, binary_by_default=True)

    def _input(self, item: object, given: dict[str, np.ndarray]) -> tuple[str, InputContract]:
        if not isinstance(item, dict):
            raise BadRequest(f"every input must be an object, got {quoted(item)}")
        name = item.get("name")
        if not isinstance(name, str):
            raise BadRequest(f"the name of an input must be a string, got {quoted(name)}")
        return name, self._contract.input(name, given)

    def _outputs(self, document: dict[str, Any], by_default: bool) -> tuple[RequestedOutput, ...]:
        items = document.get("outputs")
        if not items:
            if items is not None and not isinstance(items, list):
                raise BadRequest(f"'outputs' must be an array, got {quoted(items)}")
            if not by_default:
                for name in self._contract.binary_only_outputs:
                    raise _binary_only(name, self._contract)
            return ()
        outputs = tuple(_requested_output(item, by_default) for item in _list(document, "outputs"))
        self._contract.check_outputs(outputs)
        if self._contract.binary_only_outputs:
            for output in outputs:
                if not output.binary and output.name in self._contract.binary_only_outputs:
                    raise _binary_only(output.name, self._contract)
        return outputs


def parse_json(text: bytes | memoryview) -> Any:
    """Raises `BadRequest`. The parsers limit nesting (orjson: 1024 levels), so hostile depth is a plain error."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raw = bytes(text)
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise BadRequest(f"the body is not valid JSON: {error}") from None
    # orjson is strict, as it should be; the standard library reads the three literals that tritonclient writes.
    try:
        return json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None


def _parse_object(text: bytes | memoryview) -> dict[str, Any]:
    document = parse_json(text)
    if not isinstance(document, dict):
        raise BadRequest(f"the body must be a JSON object, got {quoted(type(document).__name__)}")
    return document


def _response(text: bytes, blobs: list[bytes | memoryview], encoding: bytes | None) -> HttpResponse:
    headers = [_BINARY_TYPE if blobs else JSON_TYPE]
    parts = [text, *blobs]
    if blobs:
        headers.append((_JSON_LENGTH, b"%d" % len(text)))
    if encoding is not None:
        headers.append((b"content-encoding", encoding))
        parts = [compress(parts, encoding)]
    return HttpResponse(200, headers, parts)


def _json_length(header: bytes, body_length: int) -> int:
    if not header.isdigit() or len(header) > 12:
        raise BadRequest(
            f"the header Inference-Header-Content-Length must be a number, got {quoted(header.decode('latin-1'))}"
        )
    length = int(header)
    if length > body_length:
        raise BadRequest(
            f"the header Inference-Header-Content-Length says {length}, but the body has {body_length} bytes"
        )
    return length


def _blob_size(name: str, size: object, remaining: int) -> int:
    if type(size) is not int or size < 0:
        raise BadRequest(f"input {name!r}: 'binary_data_size' must be a whole number, got {quoted(size)}")
    if size > remaining:
        raise BadRequest(f"input {name!r} has binary_data_size {size}, but only {remaining} bytes of the body are left")
    return size


def _requested_output(item: object, by_default: bool) -> RequestedOutput:
    if not isinstance(item, dict):
        raise BadRequest(f"every requested output must be an object, got {quoted(item)}")
    name = item.get("name")
    if not isinstance(name, str):
        raise BadRequest(f"the name of a requested output must be a string, got {quoted(name)}")
    parameters = _parameters(item, "a requested output")
    if not parameters:
        return RequestedOutput(name, by_default)
    check_output_parameters(name, parameters)
    return RequestedOutput(name, _boolean(parameters, "binary_data", by_default))


def _binary_only(name: str, contract: ModelContract) -> BadRequest:
    datatype = contract.output_datatypes[name].name
    return BadRequest(f"output {name!r} is {datatype}, which JSON cannot carry: ask for it with 'binary_data': true")


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Parameter]:
    parameters = holder.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if not isinstance(parameters, dict):
        raise BadRequest(f"the parameters of {where} must be an object, got {quoted(parameters)}")
    for key, value in parameters.items():
        if not isinstance(value, _SCALARS):
            raise BadRequest(f"parameter {quoted(key)} must be a string, a number or a boolean, got {quoted(value)}")
    return parameters


def _boolean(parameters: dict[str, Parameter], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise BadRequest(f"parameter {key!r} must be true or false, got {quoted(value)}")
    return value


def _list(holder: dict[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    if not isinstance(value, list):
        raise BadRequest(f"{key!r} must be an array, " + ("it is missing" if value is None else f"got {quoted(value)}"))
    return value


def _id(document: dict[str, Any]) -> str:
    value = document.get("id")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"'id' must be a string, got {quoted(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRequest("'id' is not valid Unicode") from None
    return value
