"""A secret in every place where one is accepted, requests that succeed and fail with it, and then it is looked for."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import subprocess
import sys
from asyncio import StreamWriter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.client import AdminClient
from router.client_errors import Refused
from router.tls_folder import TlsFolder
from tests.registries.http_server import Asked, Behaviour, HttpServer, http_server_in_thread, reply
from tests.system.canaries import Canaries, of_admin, of_envoy, of_processes
from tests.system.gateway import (
    CROSSFADE,
    SETTLE_TIMEOUT_S,
    Gateway,
    a_gateway,
    deployment,
    endpoint,
    eventually,
    write_spec,
)

PLAIN = {"plain_http": True}
PLACES = ("env", "file", "command")
OF_REGISTRY = "a registry's token by "


@dataclass
class House:
    """A gateway with a canary in every place, and the servers that it asks."""

    gateway: Gateway
    canaries: Canaries
    registries: Mapping[str, HttpServer]
    hooks: HttpServer
    model: bytes
    out: list[bytes] = field(default_factory=list)  # what commands printed

    @property
    def tls(self) -> TlsFolder:
        return TlsFolder.of(self.gateway.data_dir)

    def reference(self, place: str, path: str = "/good.onnx") -> str:
        return f"{self.registries[place].url}{path}#sha256={hashlib.sha256(self.model).hexdigest()}"

    def run(self, *arguments: str, **environment: str) -> int:
        """`crossfade …`; what it prints is looked through later."""
        done = subprocess.run(
            [CROSSFADE, *arguments],
            env={**os.environ, "CROSSFADE_DATA_DIR": str(self.gateway.data_dir), **environment},
            capture_output=True,
            timeout=60,
        )
        self.out += [done.stdout, done.stderr]
        return done.returncode


def echoing(secret: str, model: bytes) -> Behaviour:
    """A registry that serves who shows the secret, and repeats what it was shown where something is wrong."""

    async def behave(asked: Asked, writer: StreamWriter) -> None:
        shown = asked.headers.get("authorization", "")
        if asked.target.startswith("/good") and shown == f"Bearer {secret}":
            writer.write(reply(200, b"" if asked.method == "HEAD" else model, content_length=str(len(model))))
        else:
            writer.write(reply(401, f"not with {shown}".encode(), www_authenticate=f'Bearer realm="{shown}"'))

    return behave


async def forgetful(asked: Asked, writer: StreamWriter) -> None:
    """Takes what comes to /told, and knows nothing else."""
    writer.write(reply(200 if asked.target.startswith("/told") else 404))


@pytest.fixture
def house(tmp_path: Path, models: Path) -> Iterator[House]:
    canaries, model = Canaries(), (models / "mlp.onnx").read_bytes()
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    for name in ("admin", "gateway", "ray"):
        file = data_dir / f"{name}.token"
        file.write_text(canaries.new(f"the {name} token", file))
    secrets = {place: canaries.new(OF_REGISTRY + place, tmp_path / place) for place in PLACES}
    for place in ("file", "command"):
        (tmp_path / place).write_text(secrets[place])
    environment = {
        "A_REGISTRY": secrets["env"],
        "AWS_SECRET_ACCESS_KEY": canaries.new("a cloud's key"),
        "HTTPS_PROXY": f"http://ann:{canaries.new('a proxy by the environment')}@127.0.0.1:9",
        "CROSSFADE_KEY": canaries.new("a caller's key in the environment"),
    }
    places: dict[str, Any] = {
        "env": {"env": "A_REGISTRY"},
        "file": {"file": str(tmp_path / "file")},
        "command": {"command": [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", "COMMAND"]},
    }
    places["command"]["command"][-1] = str(tmp_path / "command")
    folder = TlsFolder.of(data_dir)
    own = [f"--{port}-tls-{what}" for port in ("admin", "metrics") for what in ("certificate", "key")]
    files = (folder.server.certificate, folder.server.key) * 2
    options = [part for pair in zip(own, files, strict=True) for part in pair]
    with ExitStack() as stack:
        registries = {
            place: stack.enter_context(http_server_in_thread(echoing(secrets[place], model))) for place in PLACES
        }
        hooks = stack.enter_context(http_server_in_thread(forgetful))
        hosts = {registries[place].host: {**PLAIN, "token": places[place]} for place in PLACES}
        write_spec(data_dir / "registries.yaml", [{"hosts": hosts}])
        options += ["--admin-tls-client-ca", str(folder.authority)]
        gateway = stack.enter_context(a_gateway(tmp_path, options, environment))
        yield House(gateway, canaries, registries, hooks, model)


def test_no_secret_is_found_where_it_does_not_belong(house: House, tmp_path: Path) -> None:
    gateway, canaries = house.gateway, house.canaries
    assert house.run("tls", "init") == 0
    assert house.run("tls", "client", "ann.example") == 0
    for what, file in (
        ("the CA's key", str(house.tls.authority_key)),
        ("the server's key", house.tls.server.key),
        ("a client's key", house.tls.client("ann.example").key),
    ):
        canaries.add_key(what, file)
    spec = [
        endpoint("mlp", {"blue": 100}) | {"auth_mode": "key"},
        deployment("mlp", "blue", Path("unused")) | {"model": house.reference("env")},
        deployment("mlp", "green", Path("unused")) | {"model": house.reference("file"), "model_version": "green"},
    ]
    gateway.start(write_spec(tmp_path / "spec.yaml", spec))
    token = (gateway.data_dir / "admin.token").read_text()
    with AdminClient(f"unix:{gateway.run_dir / 'admin.sock'}", token, "ann") as admin:
        operators(house, admin, tmp_path)
        callers(house, admin, tmp_path)
        sources(house, admin)
        rollouts(house, admin)
        look_everywhere(house, token)
    assert house.run("up", "--data-dir", str(gateway.data_dir)) == 1  # another gateway runs
    mistakes(house, tmp_path)
    gateway.send(signal.SIGINT)
    assert gateway.wait_for_end() == 0
    found = canaries.found_in_files(gateway.data_dir) + canaries.found_in("up", gateway.said.encode())
    found += canaries.found_in("what commands printed", b"\n".join(house.out))
    assert found == []


def operators(house: House, admin: AdminClient, tmp_path: Path) -> None:
    """Tokens that are good, revoked and wrong, over TLS with a certificate and by the socket."""
    made = admin.create_token({"name": "ci", "role": "operator"})["secret"]
    house.canaries.add("an operator's token", made, tmp_path / "ci.token")
    (tmp_path / "ci.token").write_text(made)
    remote = ("--admin-url", f"https://127.0.0.1:{house.gateway.ports.admin}")
    shown = ("--client-certificate", house.tls.client("ann.example").certificate)
    assert house.run("status", *remote, *shown, "--token-file", str(tmp_path / "ci.token")) == 0
    assert house.run("status", *remote, CROSSFADE_TOKEN=made) == 5  # without a certificate
    wrong = house.canaries.new("a wrong token")
    assert house.run("status", *remote, *shown, CROSSFADE_TOKEN=wrong) == 1
    assert house.run("status", CROSSFADE_TOKEN=wrong) == 1
    assert admin.revoke_token("ci")
    assert house.run("status", CROSSFADE_TOKEN=made) == 1


def callers(house: House, admin: AdminClient, tmp_path: Path) -> None:
    keys = {slot: admin.create_key("mlp")["key"] for slot in ("primary", "secondary")}
    keys["second primary"] = admin.regenerate_key("mlp", "primary")["key"]
    for slot, key in keys.items():
        house.canaries.add(f"the {slot} key", key, tmp_path / "key")
    (tmp_path / "key").write_text(keys["second primary"])
    trusting = ("--ca-file", str(house.tls.authority))
    assert house.run("endpoint", "invoke", "mlp", "--sample", "--key-file", str(tmp_path / "key"), *trusting) == 0
    assert house.run("endpoint", "invoke", "mlp", "--sample", *trusting, CROSSFADE_KEY=keys["secondary"]) == 0
    assert house.run("endpoint", "invoke", "mlp", "--sample", *trusting, CROSSFADE_KEY=keys["primary"]) == 1
    wrong = [
        house.canaries.new(f"what a caller shows by {way}") for way in ("header", "bearer", "basic", "query", "body")
    ]
    trust = ssl.create_default_context(cafile=house.tls.authority)
    with httpx.Client(base_url=f"https://{house.gateway.scoring}", verify=trust) as http:
        for headers in (
            {"x-api-key": wrong[0]},
            {"authorization": f"Bearer {wrong[1]}"},
            {"authorization": f"Basic {wrong[2]}", "cookie": f"session={wrong[2]}"},
        ):
            for path in ("/v2/models/mlp/infer", f"/endpoints/mlp/score?api_key={wrong[3]}", f"/v2?token={wrong[3]}"):
                http.post(path, headers=headers, json={"api_key": wrong[4]})
        good = {"x-api-key": keys["secondary"]}
        refused = http.post(f"/endpoints/mlp/score?key={wrong[3]}", headers=good, json={"inputs": [wrong[4]]})
        assert refused.status_code == 400, refused.text
        trail = [{"name": "x", "datatype": wrong[4], "shape": [1], "data": [wrong[4]]}]
        assert http.post("/v2/models/mlp/infer", headers=good, json={"inputs": trail}).status_code == 400
    admin.revoke_key("mlp", "secondary")


def sources(house: House, admin: AdminClient) -> None:
    """By every reference one pull that succeeds, and one that the registry refuses with what it was shown."""
    for place in PLACES:
        assert admin.start_pull(house.reference(place), 60)["state"] == "done"
        with pytest.raises(Refused) as refused:
            admin.resolve_model(f"{house.registries[place].url}/bad.onnx#sha256={'0' * 64}")
        house.out.append(str(refused.value.facts).encode())
        house.out.append(str(admin.start_pull(house.reference(place, "/bad.onnx"), 60)).encode())
        wanted = f"Bearer {house.canaries.words[OF_REGISTRY + place].decode()}"
        assert {asked.headers.get("authorization") for asked in house.registries[place].asked} == {wanted}


def rollouts(house: House, admin: AdminClient) -> None:
    """Webhooks whose URL is a secret: the spec is there to hold it, and nobody else."""
    state = [house.gateway.data_dir / f"state.sqlite{end}" for end in ("", "-wal", "-shm")]
    path, query, metric = (house.canaries.new(f"a webhook's {part}", *state) for part in ("path", "query", "metric"))
    steps = [{"set_weight": 10}, {"analyze": {"bake": "1h"}}, {"set_weight": 100}]
    watched = {"name": "review", "at_least": 1, "every": "1s", "webhook": f"{house.hooks.url}/metric?key={metric}"}
    hooks = [f"{house.hooks.url}/told/{path}?token={query}", f"{house.hooks.url}/gone/{path}?token={query}"]
    body = {"to": "green", "steps": steps, "analysis": {"metrics": [watched]}, "notify": hooks}
    admin.start_rollout("mlp", body)

    def asked() -> set[str]:
        return {item.target.partition("?")[0].split("/")[1] for item in house.hooks.asked}

    eventually(lambda: asked() == {"told", "gone", "metric"}, SETTLE_TIMEOUT_S, lambda: str(admin.rollout("mlp")))
    admin.abort_rollout("mlp", "seen enough")
    eventually(lambda: admin.rollout("mlp")["phase"] == "aborted", SETTLE_TIMEOUT_S)


def look_everywhere(house: House, token: str) -> None:
    gateway, canaries = house.gateway, house.canaries
    trust = ssl.create_default_context(cafile=house.tls.authority)
    shown = house.tls.client("ann.example")
    trust.load_cert_chain(shown.certificate, shown.key)
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"https://127.0.0.1:{gateway.ports.admin}", verify=trust, headers=headers) as http:
        paths = (
            "status",
            "audit",
            "events",
            "endpoints",
            "models",
            "models/pulls",
            "tokens",
            "quotas",
            "endpoints/mlp/keys",
        )
        places = of_admin(lambda path: http.get(f"/api/v1/{path}"), *paths, "endpoints/mlp/rollout/trail")
        places["metrics"] = http.get(f"https://127.0.0.1:{gateway.ports.metrics}/metrics").content
    assert b"crossfade_" in places["metrics"]
    assert b"webhook_failed" in places["events"]
    assert b"login_refused" in places["audit"]
    found = [hit for name, content in places.items() for hit in canaries.found_in(name, content)]
    # Envoy shows its token to replicas, so it is in what Envoy was told.
    for name, content in of_envoy(gateway, "/config_dump?include_eds", "/stats", "/clusters", "/server_info").items():
        found += canaries.found_in(name, content, ["the gateway token"])
    given = ("a cloud's key", "a proxy by the environment", f"{OF_REGISTRY}env", "a caller's key in the environment")
    processes = of_processes(gateway)
    assert {name.split()[0] for name in processes} >= {"envoy", "gcs_server", "raylet"}
    for name, (arguments, environment) in processes.items():
        is_ours = b"router.app" in arguments or b"crossfade" in arguments.split(b"\0")[0] or b"/crossfade" in arguments
        found += canaries.found_in(f"the arguments of {name}", arguments)
        found += canaries.found_in(f"the environment of {name}", environment, given if is_ours else ())
    assert found + canaries.found_in_files(gateway.data_dir) + canaries.found_in_files(gateway.run_dir) == []


def mistakes(house: House, tmp_path: Path) -> None:
    """Secrets where a reference to one belongs."""
    here = house.canaries.new("a secret in a spec", *(tmp_path / f"wrong{number}" for number in range(20)))
    settings = [
        {"hosts": {"a.b": {"token": here}}},
        {"hosts": {"a.b": {"username": {"env": "X"}, "password": [here]}}},
        {"proxy": f"http://ann:{here}@proxy:3128"},
        {"mlflow": {"tracking_server": f"https://ann:{here}@mlflow"}},
        {"huggingface": {"endpoint": f"https://ann:{here}@hub:port"}},
    ]
    for number, wrong in enumerate(settings):
        file = write_spec(tmp_path / f"wrong{number}", [wrong])
        fresh = ("--data-dir", str(tmp_path / "fresh"), "--registries", str(file))
        assert house.run("up", *fresh) == 2
    specs: list[dict[str, Any]] = [
        {**deployment("mlp", "blue", Path("x")), "model": f"https://ann:{here}@host/m.onnx"},
        {**deployment("mlp", "blue", Path("x")), "model": f"s3://key:{here}@bucket/m.onnx"},
        {"kind": "Rollout", "endpoint": "mlp", "to": "green", "notify": [f"https://ann:{here}@host/"]},
        {"kind": "Rollout", "endpoint": "mlp", "to": "green", "notify": [f"https://ann:{here}@host:port/"]},
    ]
    for number, wrong in enumerate(specs, len(settings)):
        file = write_spec(tmp_path / f"wrong{number}", [wrong])
        assert house.run("apply", "-f", str(file)) == 2
