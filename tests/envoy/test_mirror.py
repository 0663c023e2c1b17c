"""The mirrored copy of a request: what it has in common with the live one, and that none is lost for its size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc

from router.domain.traffic import Mirror
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.replica import MAX_BODY_BYTES, Replica
from tests.envoy.waiting import eventually
from tests.statistics import assert_share

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 400
MARK = b"x-crossfade-mirrored"
PATIENCE_S = 60.0


async def mirrored(plane: DataPlane, name: str, percent: int, max_bytes: int = MAX_BODY_BYTES) -> list[Replica]:
    """Blue answers, green gets copies."""
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint(
        name,
        upstream("blue", blue, max_request_bytes=max_bytes),
        upstream("green", green, max_request_bytes=max_bytes),
        traffic={"blue": 100},
        mirror=Mirror("green", percent),
    )
    return [blue, green]


async def ask_grpc(plane: DataPlane, name: str, size: int = 16, **headers: str) -> None:
    tensor = triton_grpc.InferInput("x", [1, size // 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, size // 4), np.float32))
    async with triton_grpc.InferenceServerClient(plane.grpc_address) as client:
        await client.infer(name, [tensor], headers={name.replace("_", "-"): value for name, value in headers.items()})


def ids(replica: Replica) -> Counter[bytes]:
    return Counter(request.headers[b"x-request-id"] for request in replica.requests)


async def test_live_request_and_copy_have_the_same_id_made_or_kept_over_http_and_grpc(plane: DataPlane) -> None:
    blue, green = await mirrored(plane, "ids", 100)

    await plane.infer("ids", headers={"x-request-id": "kept-1"})
    await plane.infer("ids")
    await ask_grpc(plane, "ids", x_request_id="kept-2")
    await ask_grpc(plane, "ids")

    await eventually(lambda: len(green.requests), 4)
    assert ids(green) == ids(blue)
    assert {b"kept-1", b"kept-2"} <= ids(blue).keys()
    assert set(ids(blue).values()) == {1}
    assert {request.headers[MARK] for request in (*blue.requests, *green.requests)} == {b"1"}


async def test_only_the_share_that_is_mirrored_is_marked_and_all_of_it_arrives(plane: DataPlane) -> None:
    blue, green = await mirrored(plane, "share", 30)

    for _ in range(REQUESTS):
        await plane.infer("share")

    marked = {request.headers[b"x-request-id"] for request in blue.requests if MARK in request.headers}
    await eventually(lambda: set(ids(green)), marked)
    assert len(blue.requests) == REQUESTS
    assert_share(len(marked), 30, REQUESTS)


async def test_a_client_cannot_mark_its_requests(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("forged", upstream("blue", blue))

    await plane.infer("forged", headers={MARK.decode(): "1"})

    assert MARK not in blue.requests[0].headers


async def test_a_pinned_request_is_neither_mirrored_nor_marked(plane: DataPlane) -> None:
    blue, green = await mirrored(plane, "pinned_away", 100)

    await plane.infer("pinned_away", headers={"x-crossfade-deployment": "blue"})
    await plane.infer("pinned_away")

    await eventually(lambda: len(green.requests), 1)
    assert [MARK in request.headers for request in blue.requests] == [False, True]


@pytest.mark.parametrize("size", [5_000_000, 60_000_000])
async def test_bodies_up_to_the_limit_are_mirrored_whole_over_http_and_grpc(plane: DataPlane, size: int) -> None:
    blue, green = await mirrored(plane, f"big{size}", 100, max_bytes=64 * MAX_BODY_BYTES)

    reply = await plane.infer(f"big{size}", body=b"x" * size)
    await ask_grpc(plane, f"big{size}", size)

    assert reply.status_code == 200
    await eventually(lambda: len(green.requests), 2, PATIENCE_S)
    assert ids(green) == ids(blue)
    # Not compared as such: pytest would explain a difference of 60 MB.
    whole = {request.headers[b"x-request-id"]: request.body for request in blue.requests}
    assert all(request.body == whole[request.headers[b"x-request-id"]] for request in green.requests)
    blue.requests.clear()
    green.requests.clear()


async def test_a_body_over_the_limit_of_either_side_is_refused_so_that_no_copy_is_lost_for_its_size(
    plane: DataPlane,
) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint(
        "unequal",
        upstream("blue", blue, max_request_bytes=MAX_BODY_BYTES),
        upstream("green", green, max_request_bytes=1000),
        traffic={"blue": 100},
        mirror=Mirror("green", 100),
    )

    reply = await plane.infer("unequal", body=b"x" * 1001)

    assert reply.status_code == 413
    assert "1000" in reply.json()["error"]
    assert not blue.requests
    assert not green.requests
