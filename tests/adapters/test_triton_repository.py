"""Model repositories made of links, and Triton's program and environment."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb2

from adapters.triton.model_config import Wanted
from adapters.triton.program import VARIABLE, checked_program
from adapters.triton.repository import Repository, write_repository
from adapters.triton.server import TritonPorts, TritonSettings, environment, triton_command, work_done
from router.domain.errors import ModelUnavailable
from router.domain.triton_managed import ManagedTriton
from serving.load import WorkDone
from serving.signature import Signature, TensorSpec
from serving.triton_ports import TriedModel

MODEL = TriedModel(
    Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),), True),
    {"x": np.array([[1.5, -2.0]], np.float32)},
)
WANTED = Wanted("fraud")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def model_folder(folder: Path, *paths: str, config: str = "") -> str:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    if config:
        (folder / "config.pbtxt").write_text(config)
    return str(folder)


def listing(repository: Repository) -> list[str]:
    """Every file that Triton finds, links followed."""
    model = repository.folder / repository.name
    found = [path.relative_to(model).as_posix() for top in model.iterdir() for path in (top, *top.rglob("*"))]
    return sorted(path for path in found if (model / path).is_file())


def test_a_file_is_version_1_together_with_the_weights_beside_it(home: Path, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "sha", "onnx/m.onnx", "onnx/m.onnx_data", "labels.txt")
    made = write_repository(str(home), f"{source}/onnx/m.onnx", source, WANTED, MODEL)
    assert made.folder.parent == home
    assert (made.name, made.backend) == ("fraud", "onnxruntime")
    assert listing(made) == ["1/m.onnx", "1/m.onnx_data", "config.pbtxt", "warmup/crossfade-0"]
    assert (made.folder / "fraud" / "1").resolve() == Path(source, "onnx")


def test_a_file_that_came_alone_is_alone_whatever_lies_beside_it(home: Path, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "srv", "m.onnx", "other.onnx", "large/archive.txt")
    made = write_repository(str(home), f"{source}/m.onnx", "", WANTED, MODEL)
    assert listing(made) == ["1/m.onnx", "config.pbtxt", "warmup/crossfade-0"]


def test_the_sample_is_there_as_triton_reads_it(home: Path, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "sha", "m.onnx")
    made = write_repository(str(home), f"{source}/m.onnx", "", WANTED, MODEL)
    assert (made.folder / "fraud" / "warmup" / "crossfade-0").read_bytes() == MODEL.sample["x"].tobytes()


def test_of_a_triton_model_one_version_is_served_under_its_own_number(home: Path, tmp_path: Path) -> None:
    source = model_folder(
        tmp_path / "sha", "1/model.onnx", "12/model.onnx", "labels.txt", config='name: "theirs" max_batch_size: 4'
    )
    made = write_repository(str(home), f"{source}/12/model.onnx", source, WANTED, MODEL)
    assert listing(made) == ["12/model.onnx", "config.pbtxt", "labels.txt"]
    config = text_format.Parse((made.folder / "fraud" / "config.pbtxt").read_text(), pb2.ModelConfig())
    assert (config.name, config.max_batch_size, config.default_model_filename) == ("fraud", 4, "model.onnx")


def test_so_it_is_in_a_repository_of_one_model(home: Path, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "sha", "theirs/3/model.onnx", "README.md")
    model_folder(tmp_path / "sha" / "theirs", config='backend: "onnxruntime"')
    made = write_repository(str(home), f"{source}/theirs/3/model.onnx", source, WANTED, MODEL)
    assert listing(made) == ["3/model.onnx", "config.pbtxt"]


def test_what_lies_outside_of_the_model_is_none_of_it(home: Path, tmp_path: Path) -> None:
    """A file at /srv/7/m.onnx is no version 7, whatever else is in /srv."""
    model_folder(tmp_path / "srv", "7/m.onnx", config="max_batch_size: 4")
    made = write_repository(str(home), f"{tmp_path}/srv/7/m.onnx", "", WANTED, MODEL)
    assert listing(made) == ["1/m.onnx", "config.pbtxt", "warmup/crossfade-0"]


def test_it_goes_without_taking_the_model_along_and_a_refused_one_leaves_nothing(home: Path, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "sha", "1/model.onnx", config='platform: "ensemble"')
    with pytest.raises(ModelUnavailable, match="ensemble"):
        write_repository(str(home), f"{source}/1/model.onnx", source, WANTED, MODEL)
    made = write_repository(str(home), f"{source}/1/model.onnx", "", WANTED, MODEL)
    made.remove()
    assert not list(home.iterdir())
    assert Path(source, "1", "model.onnx").read_text() == "1/model.onnx"


def test_what_killed_replicas_left_is_removed_and_what_living_ones_use_stays(home: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    left, used = home / f"triton-{process.pid}-abc", home / f"triton-{os.getppid()}-abc"
    source = model_folder(tmp_path / "sha", "m.onnx")
    for folder in (left, used):
        (folder / "fraud").mkdir(parents=True)
        (folder / "fraud" / "1").symlink_to(source)
    write_repository(str(home), f"{source}/m.onnx", "", WANTED, MODEL)
    assert not left.exists()
    assert used.exists()
    assert Path(source, "m.onnx").exists()


def test_where_none_can_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no model repository can be made for Triton: No such file"):
        write_repository(str(tmp_path / "gone"), "/m.onnx", "", WANTED, MODEL)


def program(folder: Path, *backends: str) -> Path:
    made = folder / "bin" / "tritonserver"
    made.parent.mkdir(parents=True)
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    for backend in backends:
        (folder / "backends" / backend).mkdir(parents=True)
    return made


def test_a_program_with_the_backend_is_found_where_the_environment_says(tmp_path: Path) -> None:
    made = program(tmp_path, "onnxruntime", "python")
    assert checked_program("onnxruntime", {VARIABLE: str(made), "PATH": ""}) == made
    assert checked_program("python", {"PATH": str(made.parent)}) == made


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    made = program(tmp_path, "python")
    with pytest.raises(ModelUnavailable, match=r"no backend 'onnxruntime', .* there are python in "):
        checked_program("onnxruntime", {VARIABLE: str(made), "PATH": ""})
    with pytest.raises(ModelUnavailable, match=rf"{VARIABLE} names {tmp_path}/gone, which is no program"):
        checked_program("onnxruntime", {VARIABLE: f"{tmp_path}/gone", "PATH": str(made.parent)})


def test_everything_that_is_not_for_clients_asks_for_what_no_request_can_contain(tmp_path: Path) -> None:
    settings = TritonSettings(program(tmp_path), Repository(tmp_path, "fraud", "onnxruntime"), "127.0.0.1", 1, False)
    command = triton_command(settings, TritonPorts(1, 2, 3), "name")
    (http,) = (part for part in command if part.startswith("--http-restricted-api="))
    (grpc,) = (part for part in command if part.startswith("--grpc-restricted-protocol="))
    apis = "model-repository,shared-memory,trace,logging"
    assert re.fullmatch(rf"--http-restricted-api={apis}:closed=[0-9a-f]{{32}}\n", http)
    assert re.fullmatch(rf"--grpc-restricted-protocol={apis}:closed\n=[0-9a-f]{{32}}", grpc)
    assert {"--model-control-mode=explicit", "--load-model=fraud"} <= set(command)
    assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(command)


def test_triton_sees_the_devices_that_were_assigned_and_no_secret() -> None:
    ours = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "3",
        "LD_LIBRARY_PATH": "/cuda",
        "AWS_SECRET_ACCESS_KEY": "s",
        "RAY_AUTH_TOKEN_PATH": "/t",
        "HF_TOKEN": "s",
    }
    assert environment(ours, has_gpu=True) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "3",
        "LD_LIBRARY_PATH": "/cuda",
    }
    assert environment(ours, has_gpu=False)["CUDA_VISIBLE_DEVICES"] == ""


def test_an_instance_is_busy_while_a_batch_is_in_it_and_not_for_each_request_of_the_batch() -> None:
    batch = {part: {"count": 1, "ns": 2_000_000_000} for part in ("compute_input", "compute_infer", "compute_output")}
    statistics = [
        {
            "inference_stats": {"success": {"count": 6}, "fail": {"count": 1}, "compute_infer": {"ns": 36e9}},
            "batch_stats": [{"batch_size": 6, **batch}],
        }
    ]
    metrics = (
        '# TYPE nv_inference_pending_request_count gauge\nnv_inference_pending_request_count{model="a",version="1"} 4\n'
    )
    assert work_done([statistics], metrics, instances=2) == WorkDone(busy_s=3.0, finished=7, pending=4)
    assert work_done([[]], "", instances=1) == WorkDone(0.0, 0, 0)


def test_without_a_warm_up_no_sample_is_written_that_nobody_would_read(home: Path, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "sha", "m.onnx")
    cold = replace(WANTED, triton=ManagedTriton(is_warmed_up=False))
    made = write_repository(str(home), f"{source}/m.onnx", "", cold, MODEL)
    assert listing(made) == ["1/m.onnx", "config.pbtxt"]
