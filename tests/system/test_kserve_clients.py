"""KServe's clients work unchanged. They need an environment of their own: `make setup-dev` makes it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.system.gateway import ROOT, Gateway

PYTHON = ROOT / ".venv-kserve" / "bin" / "python"
ROW = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)


@pytest.mark.skipif(not PYTHON.exists(), reason="KServe's client is not installed; `make setup-dev` does it")
def test_kserves_rest_and_grpc_clients_work_unchanged(shared: Gateway) -> None:
    script = Path(__file__).with_name("kserve_client.py")
    done = subprocess.run(
        [str(PYTHON), str(script), shared.url, shared.grpc], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    tensor = triton.InferInput("x", [1, 64], "FP32")
    tensor.set_data_from_numpy(ROW)
    with triton.InferenceServerClient(shared.scoring) as client:
        expected = client.infer("mlp", [tensor]).as_numpy("y").ravel()
    for protocol in ("rest", "grpc"):
        answer = seen[protocol]
        assert answer["live"]
        assert answer["ready"]
        assert answer["model_ready"]
        np.testing.assert_allclose(answer["y"], expected, rtol=1e-4, atol=1e-5)
