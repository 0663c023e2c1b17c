"""TLS and keys on a whole gateway, as an operator sets them up: one command each."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton_grpc

from benchmarks.payloads import Payload
from router.tls_folder import TlsFolder
from tests.identity import AUDIENCE, ISSUER, Provider, SigningKey, key_set
from tests.system.gateway import SETTLE_TIMEOUT_S, Gateway, a_gateway, deployment, endpoint, eventually, write_spec
from tests.system.test_triton_streams import Answers, inputs


@dataclass(frozen=True, slots=True)
class Stream:
    client: triton_grpc.InferenceServerClient
    answers: Answers

    def asks(self) -> None:
        self.client.async_stream_infer("mlp", inputs(0))
        _, error = self.answers.next()
        assert error is None, error


@contextmanager
def a_stream(gateway: Gateway, folder: TlsFolder, key: str) -> Iterator[Stream]:
    """To the endpoint `mlp`."""
    trusted = str(folder.authority)
    with triton_grpc.InferenceServerClient(gateway.grpc, ssl=True, root_certificates=trusted) as client:
        answers = Answers()
        client.start_stream(answers, headers={"x-api-key": key})
        yield Stream(client, answers)
        client.stop_stream(cancel_requests=True)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with a_gateway(tmp_path) as gateway:
        yield gateway


def test_a_gateway_with_a_certificate_and_a_key_is_used_from_the_command_line_and_leaks_neither(
    gateway: Gateway, models: Path, payload: Payload, tmp_path: Path
) -> None:
    assert gateway.run("tls", "init").returncode == 0
    spec = [endpoint("mlp", {"blue": 100}) | {"auth_mode": "key"}, deployment("mlp", "blue", models / "mlp.onnx")]
    provider, next_key, keys = Provider(), SigningKey("k2"), tmp_path / "keys.json"
    keys.write_text(key_set(provider.key))
    rules = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"file": str(keys)}, "claims": {"team": "fraud"}}
    spec += [
        endpoint("signed", {"blue": 100}) | {"auth_mode": "jwt", "jwt": rules},
        deployment("signed", "blue", models / "mlp.onnx"),
    ]
    gateway.start(write_spec(tmp_path / "spec.yaml", spec))
    key = gateway.run("keys", "create", "mlp").stdout.strip()
    (tmp_path / "key").write_text(key)
    folder = TlsFolder.of(gateway.data_dir)

    assert f"https://{gateway.scoring}" in gateway.said
    invoked = gateway.run("endpoint", "invoke", "mlp", "--sample", "--key-file", str(tmp_path / "key"))
    assert (invoked.returncode, "answered by blue" in invoked.stderr) == (0, True), invoked.stderr
    refused = gateway.run("endpoint", "invoke", "mlp", "--sample")
    assert (refused.returncode, "needs a key" in refused.stderr) == (1, True), refused.stderr

    with httpx.Client(
        base_url=f"https://{gateway.scoring}", verify=ssl.create_default_context(cafile=folder.authority)
    ) as client:
        infer = "/v2/models/mlp/infer"
        assert client.post(infer, content=payload.body, headers={"x-api-key": key}).status_code == 200
        assert client.post("/v2/repository/index", content=b"").json() == []

        def signed(*by: SigningKey, **claims: str) -> int:
            headers = {"authorization": f"Bearer {provider.token(*by, **claims)}"}
            return client.post("/v2/models/signed/infer", content=payload.body, headers=headers).status_code

        assert [signed(), signed(team="risk"), signed(aud="others"), signed(next_key)] == [200, 403, 401, 401]
        keys.write_text(key_set(next_key))
        eventually(lambda: signed(next_key) == 200, SETTLE_TIMEOUT_S)
        assert signed() == 401
        assert gateway.admin.status()["key_sets"][0]["key_ids"] == ["k2"]
        (tmp_path / "token").write_text(provider.token(next_key))
        invoked = gateway.run("endpoint", "invoke", "signed", "--sample", "--key-file", str(tmp_path / "token"))
        assert (invoked.returncode, "answered by blue" in invoked.stderr) == (0, True), invoked.stderr

        before = gateway.admin.status()["certificates"][0]["fingerprint"]
        assert gateway.run("tls", "init", "--renew").returncode == 0
        eventually(lambda: gateway.admin.status()["certificates"][0]["fingerprint"] != before, SETTLE_TIMEOUT_S)
        assert client.post(infer, content=payload.body, headers={"x-api-key": key}).status_code == 200

        with a_stream(gateway, folder, key) as begun:
            begun.asks()
            (control_plane,) = gateway.find("router.app")
            control_plane.kill()
            control_plane.wait()
            begun.asks()
            eventually(gateway.is_up_to_date, SETTLE_TIMEOUT_S)
            begun.asks()
            with a_stream(gateway, folder, key) as watched:
                watched.asks()
                assert gateway.run("keys", "revoke", "mlp", "primary").returncode == 0
                assert watched.answers.next()[1] is not None
            begun.asks()  # nobody has told the new control plane of it
        assert client.post(infer, content=payload.body, headers={"x-api-key": key}).status_code == 401

    secrets = [key.encode(), (tmp_path / "token").read_bytes(), Path(folder.server.key).read_bytes().splitlines()[1]]
    places = {str(path): path.read_bytes() for path in gateway.data_dir.rglob("*") if path.is_file()}
    places |= {f"process {process.pid}": " ".join(process.cmdline()).encode() for process in gateway.processes()}
    places |= {"up": gateway.said.encode(), "audit": str(gateway.admin.audit(100)).encode()}
    places.pop(folder.server.key)
    assert [name for name, content in places.items() if any(secret in content for secret in secrets)] == []
    assert [line["action"] for line in gateway.admin.audit(100)][-2:] == ["key_created", "key_revoked"]
