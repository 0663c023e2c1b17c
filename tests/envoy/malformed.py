"""Requests with flaws, made by chance from a seed: of HTTP's syntax, of frames, and of the two scoring protocols."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from tritonclient.grpc import service_pb2

from benchmarks import http2

SERVICE = "/inference.GRPCInferenceService"
_METHODS = ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "ServerLive", "Nothing")
_ODD_TEXTS = (
    "",
    "x",
    "é",
    "\0",
    "a" * 300,
    "..",
    "%2e%2e",
    "/",
    "-1",
    "1e999",
    "NaN",
    "null",
    "{}",
    "[[",
    "gzip",
    "0x1",
)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 2**63, 2**64, 1e308, "", "x", "FP32", "FP99", [], {}, [[]], [None]),
    *([1, 2, 3], [-1, 2], [2**40, 2**40], [[1.0, 2.0], [3.0]], {"a": {"b": {}}}),
)
_ODD_FIELDS = (
    *("content-length: -1", "content-length: 1, 2", "content-length: 99999999999999999999", "content-length: x"),
    *("transfer-encoding: chunked", "transfer-encoding: chunked, chunked", "transfer-encoding: gzip"),
    *("transfer-encoding : chunked", "connection: upgrade\r\nupgrade: h2c", "expect: 100-continue", "expect: x"),
    *("host: y", "host:", "host: a b", "x y: z", ": nameless", "no colon", "a:\x00", "b: \x7f", "c: é", " folded: yes"),
    *("te: trailers", "trailer: x", "content-encoding: gzip", "content-encoding: br", "accept-encoding: *;q=0"),
    *("inference-header-content-length: 9", "inference-header-content-length: -9", "x-crossfade-deployment: nobody"),
    *("content-type: application/grpc", "grpc-timeout: 1S", "grpc-timeout: x", "x-request-id: \t", "cookie: a=b;;=;"),
    *("x-envoy-upstream-rq-timeout-ms: 1", "x-crossfade-model: x", "range: bytes=9-1", "x" * 3000 + ": y"),
)
_TARGETS = (
    *("/v2/models/doubling/infer", "/v2/models/doubling", "/v2/models/doubling/ready", "/v2/models/doubling/config"),
    *("/v2/models/doubling/versions/1/infer", "/v2/models/nobody/infer", "/v2", "/v2/health/ready", "/", "*", "x"),
    *("/endpoints/doubling/score", "//v2//models//doubling//infer", "/v2/models/%2e%2e/doubling/infer", "http://x/"),
    *("/v2/models/doubling/infer?x=1", "/v2/models/doubling/infer#f", "/v2/models/doubling/\x80", "/" + "a" * 9000),
    *("/v2/models//infer", "/v2/models/doubling/infer/", "/v2/repository/index", "/v2/models/doubling/generate"),
)


def http1(chance: Random) -> bytes:
    """A request whose syntax may be broken anywhere. It may be none, or not have an end."""
    body = json_body(chance)
    method = chance.choice(("POST", "POST", "GET", "HEAD", "PUT", "CONNECT", "OPTIONS", "TRACE", "post", "P ST", ""))
    version = chance.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "http/1.1", ""))
    fields = [f"content-length: {len(body)}", *chance.sample(_ODD_FIELDS, chance.randrange(3))]
    if chance.random() < 0.9:
        fields.insert(0, "host: x")
    end = chance.choice(("\r\n", "\r\n", "\r\n", "\n", "\r"))
    head = end.join((f"{method} {chance.choice(_TARGETS)} {version}", *fields, "", ""))
    raw = head.encode("utf-8") + body
    return flawed(chance, raw) if chance.random() < 0.5 else raw


def http1_with_body(chance: Random) -> bytes:
    """A request whose syntax is right, and whose content is not."""
    body, fields = json_body(chance), ""
    if chance.random() < 0.5:
        body = flawed(chance, body)
    if chance.random() < 0.3:
        length = chance.choice((0, 1, len(body), len(body) - 8, len(body) + 1, 2**40))
        fields = f"inference-header-content-length: {max(0, length)}\r\n"
    if chance.random() < 0.1:
        fields += f"content-encoding: {chance.choice(('gzip', 'deflate', 'br', 'zstd', 'identity'))}\r\n"
    path = chance.choice(("/v2/models/doubling/infer", "/v2/models/doubling/versions/1/infer"))
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{fields}content-length: {len(body)}\r\n\r\n".encode() + body


def json_body(chance: Random) -> bytes:
    """V2 JSON with odd values, more or less of it."""
    document: dict[str, Any] = {
        "id": "7",
        "parameters": {"priority": 1, "timeout": 100_000, "binary_data_output": chance.random() < 0.5},
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5], "parameters": {}},
        ],
        "outputs": [{"name": "double", "parameters": {"binary_data": False, "classification": 1}}, {"name": "sum"}],
    }
    if chance.random() < 0.2:
        document["inputs"][0].pop("data")
        document["inputs"][0]["parameters"]["binary_data_size"] = chance.choice((0, 8, 9, -8, 2**40))
    for _ in range(chance.randrange(1, 4)):
        _put_somewhere(chance, document)
    tail = chance.randbytes(8) if chance.random() < 0.2 else b""
    return json.dumps(document).encode() + tail


def _put_somewhere(chance: Random, document: Any) -> None:
    """An odd value, or a text, in the place of another one, or as one more."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = chance.choice(keys)
        inner = document[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
            document = inner
            continue
        value = chance.choice(_ODD_VALUES) if chance.random() < 0.8 else chance.choice(_ODD_TEXTS)
        if isinstance(document, dict) and chance.random() < 0.2:
            key = chance.choice(_ODD_TEXTS)
        document[key] = json.loads(json.dumps(value))
        return


def grpc_message(chance: Random) -> bytes:
    """An inference request with flaws, in the framing of gRPC, which may be wrong as well."""
    message = service_pb2.ModelInferRequest(model_name=chance.choice(("doubling", "doubling", "nobody", "", "..", "é")))
    message.model_version = chance.choice(("", "1", "2", "../1"))
    for _ in range(chance.randrange(3)):
        shape = chance.choice(([1, 2], [2, 2], [-1, 2], [2**40, 2**40], [], [0, 2]))
        message.inputs.add(
            name=chance.choice(("x", "y", "")), datatype=chance.choice(("FP32", "BYTES", "")), shape=shape
        )
        if chance.random() < 0.7:
            message.raw_input_contents.append(chance.randbytes(chance.choice((0, 8, 7, 16))))
    if chance.random() < 0.3:
        message.parameters[chance.choice(("priority", "timeout", "x"))].int64_param = chance.choice((-1, 0, 2**62))
    body = message.SerializeToString()
    if chance.random() < 0.5:
        body = flawed(chance, body)
    flag = chance.choice((0, 0, 0, 0, 1, 7))
    length = len(body) if chance.random() < 0.9 else chance.choice((0, len(body) + 5, 2**32 - 1))
    return bytes((flag,)) + struct.pack(">I", length) + body


def http2_request(chance: Random, stream: int) -> bytes:
    """A whole request, gRPC or not, whose frames are right, and fields and content are not."""
    is_grpc = chance.random() < 0.8
    path = f"{SERVICE}/{chance.choice(_METHODS)}" if is_grpc else chance.choice(_TARGETS)
    fields = http2.post(path)
    if is_grpc:
        fields += [("content-type", "application/grpc"), ("te", "trailers")]
    for _ in range(chance.choice((0, 0, 1, 2))):
        fields.append(
            chance.choice(
                (
                    ("grpc-timeout", chance.choice(("1S", "9999999999H", "-1m", "", "1x", "1u"))),
                    ("grpc-encoding", chance.choice(("gzip", "identity", "x"))),
                    ("x-crossfade-deployment", chance.choice(("nobody", "blue", "", "..", "a" * 300))),
                    ("content-encoding", chance.choice(("gzip", "x"))),
                )
            )
        )
    if chance.random() < 0.01:  # for which the connection ends, with all that is under way on it
        name = chance.choice(("X-Upper", "connection", "te", "", "a b", "x-é", ":path", "content-length"))
        fields.append((name, chance.choice(_ODD_TEXTS)))
    fields = [(name, value.encode("utf-8").decode("latin-1")) for name, value in fields]
    body = grpc_message(chance) if is_grpc else json_body(chance)
    data = http2.frame(http2.DATA, body, flags=http2.END_STREAM, stream=stream)
    return http2.headers(stream, fields) + data


def http2_bytes(chance: Random) -> bytes:
    """A connection's beginning, with flaws in its frames."""
    raw = http2.opening() + b"".join(http2_request(chance, stream) for stream in (1, 3, 5))
    return flawed(chance, raw)


def flawed(chance: Random, data: bytes) -> bytes:
    """Some bytes are left out, doubled, cut off or overwritten."""
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = at + chance.randrange(1, 9)
        match chance.randrange(4):
            case 0:
                data = data[:at] + data[end:]
            case 1:
                data = data[:end] + data[at:]
            case 2:
                data = data[:at] if chance.random() < 0.3 else data
            case 3:
                data = data[:at] + chance.randbytes(min(8, max(0, len(data) - at))) + data[end:]
    return data
