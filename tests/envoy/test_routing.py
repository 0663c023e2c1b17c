"""Which deployment answers, over HTTP and gRPC, through the real Envoy."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http

from router.domain.traffic import Mirror
from tests.envoy.data_plane import DataPlane, upstream
from tests.envoy.replica import TOKEN
from tests.envoy.waiting import eventually
from tests.statistics import assert_share

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 600


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_client(plane: DataPlane) -> AsyncIterator[triton_grpc.InferenceServerClient]:
    async with triton_grpc.InferenceServerClient(plane.grpc_address) as client:
        yield client


def grpc_input() -> triton_grpc.InferInput:
    tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    return tensor


async def answered_by(client: triton_grpc.InferenceServerClient, model: str, **how: object) -> str:
    """The deployment that answered a gRPC call."""
    return (await client.infer(model, [grpc_input()], **how)).get_response().model_name


async def test_a_request_is_answered_by_the_only_deployment(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("single", upstream("blue", blue))

    reply = await plane.infer("single")

    assert reply.status_code == 200
    assert reply.json()["model_name"] == "blue"
    assert reply.headers["x-crossfade-deployment"] == "blue"
    assert reply.headers["server"] == "crossfade"


async def test_requests_are_split_by_weight_over_http_and_grpc(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint(
        "weighted", upstream("blue", blue), upstream("green", green), traffic={"blue": 90, "green": 10}
    )

    http = Counter([(await plane.infer("weighted")).headers["x-crossfade-deployment"] for _ in range(REQUESTS)])
    grpc = Counter(await asyncio.gather(*(answered_by(grpc_client, "weighted") for _ in range(REQUESTS))))

    assert_share(http["green"], 10, REQUESTS)
    assert_share(grpc["green"], 10, REQUESTS)


@pytest.mark.parametrize("header", ["x-crossfade-deployment", "azureml-model-deployment"])
async def test_a_header_pins_a_request_to_a_deployment_without_traffic(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient, header: str
) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint("pinned", upstream("blue", blue), upstream("green", green), traffic={"blue": 100})

    reply = await plane.infer("pinned", headers={header: "green"})

    assert reply.json()["model_name"] == "green"
    assert reply.headers["x-crossfade-deployment"] == "green"
    assert await answered_by(grpc_client, "pinned", headers={header: "green"}) == "green"


async def test_a_pin_to_a_deployment_that_does_not_exist_is_not_found(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    await plane.endpoint("mispinned", upstream("blue", await plane.replica("blue")))

    reply = await plane.infer("mispinned", headers={"azureml-model-deployment": 'gr"een'})
    with pytest.raises(Exception, match="has no deployment 'red'") as raised:
        await answered_by(grpc_client, "mispinned", headers={"x-crossfade-deployment": "red"})

    assert (reply.status_code, reply.json()) == (404, {"error": "endpoint 'mispinned' has no deployment 'gr\"een'"})
    assert "NOT_FOUND" in raised.value.status()


async def test_a_version_pins_a_request_to_the_deployments_that_have_it(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    blue, green, grey = [await plane.replica(name) for name in ("blue", "green", "grey")]
    await plane.endpoint(
        "versions",
        upstream("blue", blue, version="1.0"),
        upstream("green", green, version="2"),
        upstream("grey", grey, version="2"),
        traffic={"blue": 100},
    )

    one = await plane.http.post("/v2/models/versions/versions/1.0/infer")
    two = Counter(
        [(await plane.http.post("/v2/models/versions/versions/2/infer")).json()["model_name"] for _ in range(REQUESTS)]
    )

    assert one.json()["model_name"] == "blue"
    assert set(two) == {"green", "grey"}
    assert_share(two["green"], 50, REQUESTS)
    assert await answered_by(grpc_client, "versions", model_version="2") in {"green", "grey"}
    assert blue.requests[0].path == b"/v2/models/versions/versions/1.0/infer"


async def test_an_unknown_version_is_not_found(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    await plane.endpoint("unversioned", upstream("blue", await plane.replica("blue"), version="1.0"))

    for version in ("2", "1x0", "1.0.0", "1"):
        reply = await plane.http.get(f"/v2/models/unversioned/versions/{version}")
        assert (reply.status_code, reply.json()) == (404, {"error": "endpoint 'unversioned' has no such model version"})
    with pytest.raises(Exception, match="no such model version") as raised:
        await answered_by(grpc_client, "unversioned", model_version="2")
    assert "NOT_FOUND" in raised.value.status()


async def test_a_mirror_gets_a_copy_with_the_same_request_id_and_the_caller_gets_the_live_answer(
    plane: DataPlane,
) -> None:
    blue, green = await plane.replica("blue"), await plane.replica("green")
    await plane.endpoint(
        "mirrored", upstream("blue", blue), upstream("green", green), traffic={"blue": 100}, mirror=Mirror("green", 100)
    )

    reply = await plane.infer(
        "mirrored", headers={"x-request-id": "copy-me"}, body=b'{"big": "' + b"x" * 500_000 + b'"}'
    )

    assert reply.json()["model_name"] == "blue"
    await eventually(lambda: bool(green.requests))
    copy = green.requests[0]
    assert copy.body == blue.requests[0].body
    assert copy.headers[b"x-request-id"] == b"copy-me"
    assert copy.headers[b"x-crossfade-gateway"] == TOKEN.encode()
    assert copy.headers[b"host"] == blue.requests[0].headers[b"host"]


async def test_an_endpoint_without_traffic_says_so_and_still_answers_pinned_requests(plane: DataPlane) -> None:
    await plane.endpoint("idle", upstream("blue", await plane.replica("blue")), traffic={})

    reply = await plane.infer("idle")
    pinned = await plane.infer("idle", headers={"x-crossfade-deployment": "blue"})

    assert (reply.status_code, reply.json()) == (404, {"error": "endpoint 'idle' has no deployment with traffic"})
    assert pinned.status_code == 200


async def test_score_is_an_alias_of_infer(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("scored", upstream("blue", blue))

    reply = await plane.http.post("/endpoints/scored/score", content=b'{"inputs": []}')

    assert reply.json()["model_name"] == "blue"
    assert (blue.requests[0].path, blue.requests[0].body) == (b"/v2/models/scored/infer", b'{"inputs": []}')


async def test_a_query_string_does_not_hide_the_model(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("queried", upstream("blue", blue))

    for path in ("/v2/models/queried", "/v2/models/queried/ready", "/v2/models/queried/versions/1"):
        reply = await plane.http.get(path, params={"verbose": "a/b?c"})
        assert reply.status_code == 200, reply.text

    assert [request.path.partition(b"?")[0].decode() for request in blue.requests] == [
        "/v2/models/queried",
        "/v2/models/queried/ready",
        "/v2/models/queried/versions/1",
    ]


async def test_an_endpoint_may_be_called_like_a_word_of_the_protocol(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    for name in ("live", "ready", "index", "models", "server", "Model", "a.b-c_d"):
        await plane.endpoint(name, upstream("blue", await plane.replica(f"blue of {name}")))

        assert (await plane.infer(name)).json()["model_name"] == f"blue of {name}"
        assert await answered_by(grpc_client, name) == f"blue of {name}"
    assert (await plane.http.get("/v2/health/live")).status_code == 200


async def test_unknown_models_are_not_found_over_http_and_grpc(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    reply = await plane.infer("nobody")
    with pytest.raises(Exception, match="unknown model 'nobody'") as raised:
        await answered_by(grpc_client, "nobody")

    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {"error": "unknown model or path '/v2/models/nobody/infer'"}
    assert "NOT_FOUND" in raised.value.status()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../victim",
        "victim/../victim",
        "victim/versions/1",
        "victim?x",
        "victim%2f",
        "ví",
        "victim\n",
        "-",
        "x" * 70,
    ],
)
async def test_a_name_in_a_grpc_body_cannot_become_part_of_a_path(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient, name: str
) -> None:
    victim = await plane.replica("blue")
    await plane.endpoint("victim", upstream("blue", victim))

    for how in ({"model_name": name}, {"model_name": "nobody", "model_version": name}):
        with pytest.raises(Exception, match="unknown model") as raised:
            await answered_by(grpc_client, how.pop("model_name"), **how)
        assert "NOT_FOUND" in raised.value.status()

    assert not victim.requests


async def test_triton_clients_reach_every_model_level_call(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("triton", upstream("blue", blue))

    async with triton_http.InferenceServerClient(f"127.0.0.1:{plane.gateway.http_port}") as client:
        assert await client.is_model_ready("triton")
        await client.get_model_metadata("triton", model_version="1")
        await client.get_inference_statistics("triton")
        await client.get_model_config("triton")
    await grpc_client.get_model_metadata("triton", model_version="1")
    await grpc_client.get_inference_statistics("triton")
    await grpc_client.get_model_config("triton")
    await grpc_client.is_model_ready("triton")

    assert [request.path.decode() for request in blue.requests] == [
        "/v2/models/triton/ready",
        "/v2/models/triton/versions/1",
        "/v2/models/triton/stats",
        "/v2/models/triton/config",
        "/v2/models/triton/versions/1/ModelMetadata",
        "/v2/models/triton/ModelStatistics",
        "/v2/models/triton/ModelConfig",
        "/v2/models/triton/ModelReady",
    ]


async def test_server_level_calls_reach_the_control_plane_under_their_own_paths(
    plane: DataPlane, grpc_client: triton_grpc.InferenceServerClient
) -> None:
    plane.server.requests.clear()

    for path in ("/v2", "/v2/", "/v2/models/stats", "/v2/trace/setting"):
        assert (await plane.http.get(path)).status_code == 200
    for path in ("/v2/repository/index", "/v2/repository/models/fraud/load"):
        assert (await plane.http.post(path, content=b"")).status_code == 200
    await grpc_client.is_server_live()
    await grpc_client.get_model_repository_index()
    await grpc_client.get_inference_statistics()

    assert [request.path.decode() for request in plane.server.requests] == [
        "/v2",
        "/v2/",
        "/v2/models/stats",
        "/v2/trace/setting",
        "/v2/repository/index",
        "/v2/repository/models/fraud/load",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/RepositoryIndex",
        "/inference.GRPCInferenceService/ModelStatistics",
    ]


async def test_server_level_calls_are_answered_by_replicas_while_the_control_plane_is_away(plane: DataPlane) -> None:
    blue = await plane.replica("blue")
    await plane.endpoint("standby", upstream("blue", blue))
    await plane.server.kill()
    try:
        replies = [await plane.http.get("/v2") for _ in range(20)]
    finally:
        await plane.server.start()

    assert {reply.status_code for reply in replies} == {200}
    assert {json.loads(reply.content)["model_name"] for reply in replies} != {"control-plane"}
