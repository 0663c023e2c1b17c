"""The locustfile that users load-test their own endpoints with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.payloads import Payload
from tests.system.gateway import ROOT, Gateway

LOCUSTFILE = ROOT / "benchmarks" / "locustfile.py"
LIMIT_S = 120


@pytest.mark.parametrize(("user", "shape"), [("HttpUser", "spike"), ("GrpcUser", "ramp")])
def test_locust_puts_load_on_an_endpoint_over_both_protocols(
    shared: Gateway, payload: Payload, tmp_path: Path, user: str, shape: str
) -> None:
    shared.set_traffic({"blue": 100})
    request = tmp_path / "request.json"
    request.write_bytes(payload.body)
    host = shared.url if user == "HttpUser" else shared.grpc
    command = [str(Path(sys.executable).with_name("locust")), "-f", str(LOCUSTFILE), user, "--host", host]
    command += ["--endpoint", "mlp", "--request-file", str(request), "--shape", shape]
    command += ["--headless", "-u", "4", "-r", "4", "-t", "2s", "--only-summary", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answered = {row["name"]: (row["num_requests"], row["num_failures"]) for row in json.loads(done.stdout)}
    assert answered.keys() == {"infer blue"}
    requests, failures = answered["infer blue"]
    assert requests > 0
    assert failures == 0
