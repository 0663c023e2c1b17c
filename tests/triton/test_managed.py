"""A real Triton as a replica runs it: loads, answers, hangs, dies, is drained, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.internal_authority import InternalAuthority
from adapters.replica_tls import ReplicaKeys
from adapters.triton.server import TritonProcess
from benchmarks.models import tiny_mlp
from router.domain.errors import ModelUnavailable
from router.domain.replica_tls import CertificateRequest, Certified
from router.domain.triton_managed import ManagedModel
from serving.certified import CertifiedReplica
from serving.triton_relay import RelayedHome
from tests.envoy.data_plane import data_plane, upstream
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.internal_ca import BLUE, internal_ca, now
from tests.system.models import slow, strings
from tests.triton.asking import answering, grpc_request, json_request
from tests.triton.managed import cached, deployed_model, home_of, managed_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROW = {"x": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)}


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "fraud.onnx"
    tiny_mlp(path)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(program: Path, mlp: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TritonProcess]:
    """One for the tests that leave it as it is."""
    async with managed_triton(program, tmp_path_factory.mktemp("run"), deployed_model(mlp)) as running:
        yield running


def url_of(triton: TritonProcess) -> str:
    return f"http://{triton.address.ip}:{triton.address.http_port}/v2"


async def post(triton: TritonProcess, path: str, **how: object) -> httpx.Response:
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        return await client.post(f"{url_of(triton)}/{path}", json=how)


async def infer(triton: TritonProcess, inputs: dict[str, np.ndarray]) -> httpx.Response:
    return await post(triton, "models/mlp/infer", **json_request(inputs))


async def raw_answer(triton: TritonProcess, request: bytes) -> bytes:
    """The beginning of it; empty when the connection is closed instead."""
    reader, writer = await asyncio.open_connection(triton.address.ip, triton.address.http_port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(1000), DEADLINE_S)
    except ConnectionError:  # closed with something unread
        return b""
    finally:
        writer.close()


def processes_of(triton: TritonProcess) -> list[psutil.Process]:
    process = psutil.Process(triton.pid)
    return [process, *process.children(recursive=True)]


def shared_memory_of(triton: TritonProcess) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"{triton.name}-")]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_it_answers_as_onnx_runtime_does_over_both_protocols(triton: TritonProcess, mlp: Path) -> None:
    (expected,) = onnxruntime.InferenceSession(str(mlp)).run(None, ROW)
    answer = (await infer(triton, ROW)).json()
    (output,) = answer["outputs"]
    assert (answer["model_name"], answer["model_version"], output["shape"]) == ("mlp", "1", [1, 10])
    np.testing.assert_allclose(np.array(output["data"], np.float32), expected[0], rtol=1e-4, atol=1e-6)
    address = f"{triton.address.ip}:{triton.address.grpc_port}"
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(grpc_request("mlp", ROW))
    assert np.frombuffer(reply.raw_output_contents[0], np.float32).shape == (10,)


class Standing:
    """Implements `TritonHome`: one runs already, and stays."""

    def __init__(self, triton: TritonProcess) -> None:
        self._triton = triton

    async def start(self) -> TritonProcess:
        return self._triton

    async def close(self) -> None:
        pass


class Desk:
    """Implements `serving.certified.Desk`."""

    def __init__(self, ca: InternalAuthority) -> None:
        self._ca = ca

    async def certified(self, request: CertificateRequest) -> Certified:
        return self._ca.for_replica(request, now())


async def test_on_another_host_it_answers_an_envoy_over_tls_by_both_protocols(triton: TritonProcess) -> None:
    ca = internal_ca()
    replica = CertifiedReplica(replace(BLUE, endpoint="mlp"), Desk(ca), ReplicaKeys())
    await replica.start(unheard)
    relayed = await RelayedHome(Standing(triton), replica).start()
    try:
        async with data_plane(internal=ca) as plane:
            managed = replace(upstream("blue"), addresses=(relayed.address,), triton=ManagedModel("mlp"))
            await plane.endpoint("mlp", managed)
            await answering(plane, "mlp", "blue")
            answer = await plane.http.post("/v2/models/mlp/infer", json=json_request(ROW))
            assert answer.json()["outputs"][0]["shape"] == [1, 10]
            async with grpc.aio.insecure_channel(plane.grpc_address) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                reply = await stub.ModelInfer(grpc_request("mlp", ROW), timeout=DEADLINE_S)
            assert np.frombuffer(reply.raw_output_contents[0], np.float32).shape == (10,)
    finally:
        for relay in relayed.relays:
            relay.close()
        replica.close()


async def unheard(_: str) -> None:
    pass


async def test_it_counts_its_work_the_warm_up_included(triton: TritonProcess) -> None:
    before = await triton.work_done()
    await infer(triton, ROW)
    after = await triton.work_done()
    assert before.finished >= 1
    assert (after.finished, after.pending) == (before.finished + 1, 0)
    assert after.busy_s > before.busy_s > 0


@pytest.mark.parametrize(
    "path",
    [
        "repository/index",
        "repository/models/mlp/unload",
        "repository/models/mlp/load",
        "systemsharedmemory/region/a/register",
        "trace/setting",
        "logging",
    ],
)
async def test_what_is_not_for_clients_is_closed_over_http(triton: TritonProcess, path: str) -> None:
    answer = await post(triton, path)
    assert answer.status_code == 403, answer.text
    assert await triton.why_not_ready() == ""


async def test_and_over_grpc(triton: TritonProcess) -> None:
    async with grpc.aio.insecure_channel(f"{triton.address.ip}:{triton.address.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for call, request in (
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
            (stub.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest(model_name="mlp")),
            (stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()),
            (stub.TraceSetting, service_pb2.TraceSettingRequest()),
            (stub.LogSettings, service_pb2.LogSettingsRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="restricted"):
                await call(request)


async def test_nobody_gets_in_with_what_stands_on_the_command_line(triton: TritonProcess) -> None:
    """Which everybody on this machine can read."""
    (closed,) = (part for part in psutil.Process(triton.pid).cmdline() if part.startswith("--http-restricted-api="))
    secret = closed.partition("closed=")[2].strip()
    assert len(secret) == 32
    for value in (secret, f"{secret}\r\n ", f"{secret}\n", f"{secret}%0A", f"{secret}\\n"):
        request = f"POST /v2/repository/index HTTP/1.1\r\nhost: a\r\nclosed: {value}\r\ncontent-length: 0\r\n\r\n"
        answer = await raw_answer(triton, request.encode())
        assert not answer.startswith(b"HTTP/1.1 200"), value
    (closed,) = (
        part for part in psutil.Process(triton.pid).cmdline() if part.startswith("--grpc-restricted-protocol=")
    )
    secret = closed.partition("closed\n=")[2]
    assert len(secret) == 32
    async with grpc.aio.insecure_channel(f"{triton.address.ip}:{triton.address.grpc_port}") as channel:
        index = service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex
        for name in ("closed", "triton-grpc-protocol-closed"):
            with pytest.raises(grpc.aio.AioRpcError, match="restricted"):
                await index(service_pb2.RepositoryIndexRequest(), metadata=[(name, secret)])


async def test_one_that_is_drained_finishes_what_is_under_way(program: Path, tmp_path: Path) -> None:
    slow(tmp_path / "slow.onnx")
    steps = {"steps": np.array([400], np.int64)}  # half a second or more
    async with managed_triton(program, tmp_path, deployed_model(tmp_path / "slow.onnx")) as triton:
        address = f"{triton.address.ip}:{triton.address.grpc_port}"
        async with grpc.aio.insecure_channel(address) as channel:

            async def over_http() -> bool:
                return (await infer(triton, steps)).status_code == 200

            async def over_grpc() -> bool:
                call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
                return len((await call(grpc_request("mlp", steps))).raw_output_contents) == 1

            asking: list[asyncio.Task[bool]] = []

            async def waiting() -> int:
                if all(task.done() for task in asking):  # at first; and when nobody looked for so long
                    asking[:] = [asyncio.create_task(ask()) for ask in (over_http, over_grpc)]
                return (await triton.work_done()).pending

            await eventually(waiting, 1)  # and the other one is in the model
            draining = asyncio.create_task(triton.drain())
            async with asyncio.timeout(2 * DEADLINE_S):
                assert await asyncio.gather(*asking) == [True, True]
            draining.cancel()


async def test_one_that_has_nothing_under_way_ends_when_it_is_drained(program: Path, mlp: Path, tmp_path: Path) -> None:
    async with managed_triton(program, tmp_path, deployed_model(mlp)) as triton:
        async with asyncio.timeout(2 * DEADLINE_S):
            await triton.drain()
        assert "exit code 0" in (await triton.ended()).words


async def test_one_that_is_ended_leaves_no_process_no_shared_memory_and_no_repository(
    program: Path, mlp: Path, tmp_path: Path
) -> None:
    async with managed_triton(program, tmp_path, deployed_model(mlp)) as triton:
        processes = processes_of(triton)
        assert len(processes) > 1  # with the Python backend's
        assert shared_memory_of(triton)
        (repository,) = os.listdir(tmp_path)
        assert os.listdir(tmp_path / repository / "mlp" / "1") == [mlp.name]
    assert all(map(is_gone, processes))
    assert not shared_memory_of(triton)
    assert not os.listdir(tmp_path)
    assert os.listdir(mlp.parent) == [mlp.name]


async def test_one_that_hangs_does_not_answer_and_can_be_ended(program: Path, mlp: Path, tmp_path: Path) -> None:
    async with managed_triton(program, tmp_path, deployed_model(mlp)) as triton:
        os.kill(triton.pid, signal.SIGSTOP)

        async def is_silent() -> bool:
            try:
                await triton.why_not_ready()
            except TimeoutError:
                return True
            return False

        await eventually(is_silent)
        async with asyncio.timeout(DEADLINE_S):
            await triton.end()
            assert "SIGKILL" in (await triton.ended()).words


async def test_one_whose_replica_is_killed_goes_with_it(program: Path, mlp: Path, tmp_path: Path) -> None:
    replica = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.triton.orphan", str(program), str(tmp_path), str(mlp)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert replica.stdout is not None
    try:
        async with asyncio.timeout(2 * DEADLINE_S):
            pids = [int(pid) for pid in (await replica.stdout.readline()).split()]
        processes = [psutil.Process(pid) for pid in pids]
        assert len(processes) > 1
    finally:
        replica.kill()
        await replica.wait()

    async def left() -> list[psutil.Process]:
        return [process for process in processes if not is_gone(process)]

    await eventually(left, [])


async def test_what_triton_says_against_a_model_is_told(program: Path, mlp: Path, tmp_path: Path) -> None:
    folder, run = tmp_path / "model", tmp_path / "run"
    (folder / "1").mkdir(parents=True)
    run.mkdir()
    shutil.copy(mlp, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text("max_batch_size: -1")
    folder = cached(folder)
    with pytest.raises(ModelUnavailable, match=r"tritonserver ended .*must be non-negative"):
        async with managed_triton(program, run, deployed_model(folder / "1" / "model.onnx", folder)):
            pass
    assert not os.listdir(run)


async def test_a_port_that_somebody_else_has_is_told_apart(program: Path, mlp: Path, tmp_path: Path) -> None:
    home = await asyncio.to_thread(home_of, program, tmp_path, deployed_model(mlp))

    async def started_and_robbed(taken: socket.socket) -> TritonProcess:
        """In the moment between choosing a port and opening it, for which we may be too late."""
        while True:
            triton = await home.start()
            with contextlib.suppress(OSError):
                taken.bind((triton.address.ip, triton.address.http_port))
                taken.listen()
                return triton
            await triton.end()

    try:
        with socket.socket() as taken:
            async with asyncio.timeout(2 * DEADLINE_S):
                how = await (await started_and_robbed(taken)).ended()
        assert how.is_port_taken, how
    finally:
        await home.close()


async def test_of_a_models_own_folder_the_version_that_is_deployed_is_served_whatever_its_policy_says(
    program: Path, mlp: Path, tmp_path: Path
) -> None:
    folder, run = tmp_path / "model", tmp_path / "run"
    (folder / "7").mkdir(parents=True)
    (folder / "9").mkdir()
    shutil.copy(mlp, folder / "9" / "model.onnx")  # newer, and not the one that is deployed
    run.mkdir()
    onnx.save(
        onnx.load(mlp), folder / "7" / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (folder / "config.pbtxt").write_text(
        'name: "theirs"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 2\n'
        "version_policy { specific { versions: [7, 9] } }\n"
        'input { name: "x" data_type: TYPE_FP32 dims: 64 }\noutput { name: "y" data_type: TYPE_FP32 dims: 10 }\n'
    )
    folder = cached(folder)
    async with managed_triton(program, run, deployed_model(folder / "7" / "model.onnx", folder)) as triton:
        answer = await infer(triton, ROW)
        assert (answer.status_code, answer.json()["model_version"]) == (200, "7")
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            assert (await client.get(f"{url_of(triton)}/models/mlp")).json()["versions"] == ["7"]
        too_many = await infer(triton, {"x": np.zeros((3, 64), np.float32)})
        assert too_many.status_code == 400
        assert "batch-size must be <= 2" in too_many.text


async def test_text_comes_and_goes(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "strings.onnx"
    strings(path)
    async with managed_triton(program, tmp_path, deployed_model(path)) as triton:
        answer = await infer(triton, {"text": np.array([["grüße".encode(), b""]], dtype=object)})
        assert answer.json()["outputs"][0]["data"] == ["grüße", ""]
