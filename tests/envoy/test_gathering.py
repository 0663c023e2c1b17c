"""What Envoy gathers of a request before somebody answers it, and what an answer tells of limits."""

import pytest

from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.replica import MAX_BODY_BYTES
from tests.envoy.wire import Wire, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MUCH = 512 * 1024 * 1024


def announcing(target: str, num_bytes: int, *headers: tuple[str, str]) -> bytes:
    """A request whose body does not come."""
    return request("POST", target, [*headers, ("content-length", str(num_bytes))], b"")


@pytest.mark.parametrize(
    "target",
    ["/v2/models/nobody/infer", "/v2/models/nobody/versions/1/infer", "/v2/models/nobody", "/nowhere", "/v3/a/b", "/"],
)
async def test_for_a_name_or_path_that_nobody_has_no_body_is_waited_for(plane: DataPlane, target: str) -> None:
    wire = Wire(plane.gateway.http_port)
    answer = await wire.ask(announcing(target, _MUCH))
    await wire.close()

    assert (answer.status, b"unknown model or path" in answer.body) == (404, True)


async def test_a_body_for_a_model_is_gathered_as_far_as_its_limit(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("limited", upstream("blue", blue))

    largest = await plane.infer("limited", body=b" " * MAX_BODY_BYTES)
    wire = Wire(plane.gateway.http_port)
    over = await wire.ask(announcing("/v2/models/limited/infer", MAX_BODY_BYTES + 1))
    await wire.close()

    assert (largest.status_code, over.status) == (200, 413)
    assert len(blue.requests) == 1


async def test_a_call_about_the_server_may_not_be_long(plane: DataPlane) -> None:
    reply = await plane.http.post("/v2/repository/index", content=b" " * (2 * MAX_BODY_BYTES))

    assert reply.status_code == 413
    assert [seen.path for seen in plane.server.requests if seen.path.endswith(b"/repository/index")] == []


@pytest.mark.parametrize("path", ["/x/models/{}/infer", "/v3/models/{}", "/a/models/{}/b/c"])
async def test_a_path_of_no_meaning_tells_nothing_of_a_limit(plane: DataPlane, path: str) -> None:
    await plane.endpoint("measured", upstream("blue", await plane.replica("blue")))
    wire = Wire(plane.gateway.http_port)
    answers = []
    for name in ("measured", "nobodys1"):
        answers.append(await wire.ask(announcing(path.format(name), MAX_BODY_BYTES + 1)))
        await wire.close()

    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body.replace(b"measured", b"nobodys1") == answers[1].body
