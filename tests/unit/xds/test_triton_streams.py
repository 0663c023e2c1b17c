"""Requests on a stream to a Triton, as Lua gives them to it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from tests.unit.xds.lua_scripts import Script

MIB = 1024 * 1024
SCRIPT = Script("triton_reading", "inflate", "decompression", "messages", "triton_checks", "triton_streams")
FACTS = "{limit = %d, version = '1', model = 'm', number = '3'}"
PATH = "'/v2/models/fraud/ModelStreamInfer'"
TOGETHER = "the messages that came together are larger than 16777216 bytes when they are decompressed"


def stream(limit: int) -> Callable[[bytes], Any]:
    (requests_of,) = SCRIPT.functions(f"(function() return requests_of({FACTS % limit}, {PATH}, 'gzip') end)")
    return requests_of()


def compressed(size: int, id: str = "") -> bytes:
    message = service_pb2.ModelInferRequest(model_name="fraud", id=id, raw_input_contents=[bytes(size)])
    data = gzip.compress(message.SerializeToString())
    return b"\1" + len(data).to_bytes(4, "big") + data


def broken(size: int) -> bytes:
    data = bytearray(compressed(size))
    data[-5] ^= 1
    return bytes(data)


def passed(text: bytes) -> list[str]:
    """What each message became: the name of Triton's model, or a refusal."""
    found = []
    while text:
        length = int.from_bytes(text[1:5], "big")
        found.append(service_pb2.ModelInferRequest.FromString(text[5 : 5 + length]).model_name)
        text = text[5 + length :]
    return found


def test_messages_of_one_chunk_may_grow_together_to_what_one_may() -> None:
    requests = stream(16 * MIB)
    found = passed(requests(compressed(6 * MIB) * 5))
    assert found[:2] == ["m", "m"]
    assert len(found) == 5
    assert all(TOGETHER in refusal for refusal in found[2:])
    assert passed(requests(compressed(6 * MIB) * 2)) == ["m", "m"]  # the stream goes on


@pytest.mark.parametrize("flawed", [broken(6 * MIB), compressed(9 * MIB)], ids=["broken", "too large"])
def test_what_is_refused_has_been_work_as_well(flawed: bytes) -> None:
    found = passed(stream(8 * MIB)(flawed * 3 + compressed(100)))
    assert len(found) == 4
    assert TOGETHER in found[3]


def test_a_small_one_that_is_broken_does_not_keep_others_from_passing() -> None:
    found = passed(stream(8 * MIB)(broken(100) + compressed(100) * 20))
    assert "checksum" in found[0]
    assert found[1:] == ["m"] * 20


def test_one_that_is_larger_than_the_endpoint_takes_is_told_so() -> None:
    (found,) = passed(stream(MIB)(compressed(2 * MIB)))
    assert f"larger than the {MIB} bytes" in found
