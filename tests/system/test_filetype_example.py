"""The path that the README shows: one command, and a real model answers real input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from deploy.examples.filetype import features, labels
from tests.system.gateway import ROOT, Gateway, a_gateway

EXAMPLES = ROOT / "deploy" / "examples"
FILES = {
    "README.md": "markdown",
    "Makefile": "makefile",
    "router/up.py": "python",
    "pyproject.toml": "toml",
    "deploy/examples/filetype.yaml": "yaml",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    subprocess.run([sys.executable, str(EXAMPLES / "quantize_filetype.py")], check=True, timeout=120)
    with a_gateway(tmp_path_factory.mktemp("filetype")) as gateway:
        gateway.start(EXAMPLES / "filetype.yaml")
        yield gateway


def test_the_example_tells_that_the_readme_is_markdown(gateway: Gateway) -> None:
    command = [sys.executable, str(EXAMPLES / "filetype.py"), "README.md", "--address", gateway.scoring]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("README.md: markdown (")


@pytest.mark.parametrize("port", ["http", "grpc"])
@pytest.mark.parametrize(("triton", "deployment"), [(triton_http, "blue"), (triton_grpc, "green")])
def test_both_versions_name_real_files_alike_over_both_protocols_on_both_ports(
    gateway: Gateway, port: str, triton: Any, deployment: str
) -> None:
    address = gateway.scoring if port == "http" else gateway.grpc
    names = labels()
    with triton.InferenceServerClient(address) as client:
        for file, label in FILES.items():
            tensor = triton.InferInput("bytes", [1, 2048], "INT32")
            tensor.set_data_from_numpy(features(Path(ROOT, file).read_bytes()))
            result = client.infer("filetype", [tensor], headers={"x-crossfade-deployment": deployment})
            scores = result.as_numpy("target_label")
            assert names[int(np.argmax(scores))] == label


def test_the_command_that_the_gateway_prints_gets_an_answer(gateway: Gateway) -> None:
    line = next(line for line in gateway.said.splitlines() if "endpoint invoke" in line)
    done = subprocess.run(line.split(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "filetype version 3.3" in done.stdout
