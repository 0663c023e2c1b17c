"""KServe's clients work unchanged.

They need an environment of their own: they pull in pandas, which slows every `import ray.serve` down, and old packages.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from benchmarks.environments import INSTALL_TIMEOUT_S, KSERVE, ensure
from tests.system.gateway import Gateway

ROW = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)


@pytest.mark.timeout(INSTALL_TIMEOUT_S)
def test_kserves_rest_and_grpc_clients_work_unchanged(shared: Gateway) -> None:
    python = str(ensure(KSERVE).python)
    script = Path(__file__).with_name("kserve_client.py")
    done = subprocess.run([python, str(script), shared.url, shared.grpc], capture_output=True, text=True, timeout=120)
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
