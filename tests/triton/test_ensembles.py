"""A real Triton as a replica runs it, with several models: an ensemble answers, and its parts stand behind it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import numpy as np
import onnxruntime
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.triton.server import TritonProcess
from adapters.triton.statistics import TritonStatisticsClient
from router.domain.errors import ModelUnavailable
from router.domain.triton_managed import ManagedModel
from tests.envoy.data_plane import data_plane, upstream
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.asking import answering, grpc_request, json_request
from tests.triton.ensembles import SCALE, scoring
from tests.triton.managed import cached, deployed_model, managed_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ONNX = "onnxruntime_onnx"
ROWS = {"row": np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cached(scoring(tmp_path_factory.mktemp("model") / "model"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(
    program: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TritonProcess]:
    """Its endpoint is called like one of the parts."""
    deployed = deployed_model(repository, repository)
    async with managed_triton(program, tmp_path_factory.mktemp("run"), deployed) as running:
        yield running


def expected(repository: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(repository / "mlp" / "3" / "model.onnx"))
    (scores,) = session.run(None, {"x": ROWS["row"] * SCALE})
    return np.asarray(scores)


async def test_the_ensemble_answers_by_the_endpoints_name_over_both_protocols_as_its_graphs_do(
    triton: TritonProcess, repository: Path
) -> None:
    async with data_plane() as plane:
        managed = replace(upstream("blue"), addresses=(triton.address,), triton=ManagedModel("mlp"))
        await plane.endpoint("mlp", managed)
        await answering(plane, "mlp", "blue")
        answer = (await plane.http.post("/v2/models/mlp/infer", json=json_request(ROWS))).json()
        (output,) = answer["outputs"]
        assert (answer["model_name"], output["name"], output["shape"]) == ("mlp", "scores", [2, 10])
        scores = np.array(output["data"], np.float32).reshape(2, 10)
        np.testing.assert_allclose(scores, expected(repository), rtol=1e-4, atol=1e-6)

        async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            reply = await stub.ModelInfer(grpc_request("mlp", ROWS), timeout=DEADLINE_S)
            raw = np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(2, 10)
            np.testing.assert_allclose(raw, expected(repository), rtol=1e-4, atol=1e-6)

            # Its parts answer nobody outside, on a stream of the endpoint's neither.
            for part in ("scale", "mlp-part"):
                inputs = {"x": ROWS["row"]}
                assert (await plane.http.post(f"/v2/models/{part}/infer", json=json_request(inputs))).status_code == 404
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.ModelInfer(grpc_request(part, inputs), timeout=DEADLINE_S)
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND

            async def asked() -> AsyncIterator[service_pb2.ModelInferRequest]:
                yield grpc_request("mlp", ROWS)
                yield grpc_request("scale", {"x": ROWS["row"]})

            replies = [reply async for reply in stub.ModelStreamInfer(asked(), timeout=DEADLINE_S)]
            assert "unknown model 'scale'" in replies[1].error_message
            assert not replies[0].error_message


async def test_its_parts_are_there_under_the_names_of_the_repository_but_for_one_that_is_taken(
    triton: TritonProcess,
) -> None:
    url = f"http://{triton.address.ip}:{triton.address.http_port}/v2/models"
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        for name, version, platform in (("mlp", "1", "ensemble"), ("scale", "1", _ONNX), ("mlp-part", "3", _ONNX)):
            found = (await client.get(f"{url}/{name}")).json()
            assert (found["versions"], found["platform"]) == ([version], platform), found


async def test_a_request_is_counted_once_and_the_time_of_its_busiest_part_is_the_models(
    program: Path, repository: Path, tmp_path: Path
) -> None:
    async with managed_triton(program, tmp_path, deployed_model(repository, repository)) as triton:

        async def finished() -> int:
            return (await triton.work_done()).finished

        async def is_busier() -> bool:
            return (await triton.work_done()).busy_s > before.busy_s

        await eventually(finished, 1)  # with which it was found to answer; Triton counts after it has answered
        before = await triton.work_done()
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            url = f"http://{triton.address.ip}:{triton.address.http_port}/v2/models/mlp/infer"
            assert (await client.post(url, json=json_request(ROWS))).status_code == 200
        await eventually(finished, 2)
        await eventually(is_busier)
        assert (await triton.work_done()).pending == 0
        asking = TritonStatisticsClient()
        told = await asking.ask(triton.address, ManagedModel("mlp"))
        await asking.close()
        assert told is not None
        assert (told.counts.successes, told.counts.failures) == (2, 0)


async def test_parts_that_do_not_take_what_they_are_given_are_found_before_there_is_traffic(
    program: Path, tmp_path: Path
) -> None:
    """Triton has nothing against it: the one says that it takes any width."""
    folder, run = cached(scoring(tmp_path / "model", width=32)), tmp_path / "run"
    run.mkdir()
    with pytest.raises(ModelUnavailable, match=r"did not answer its first request: .*Got: 32 Expected: 64"):
        async with asyncio.timeout(2 * DEADLINE_S), managed_triton(program, run, deployed_model(folder, folder)):
            pass
    assert not os.listdir(run)
