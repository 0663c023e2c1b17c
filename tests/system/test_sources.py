"""One gateway and every kind of source, each a real server where there is one: what is pushed by its own client is
pulled, served and answers; trouble with sources is told, and touches nothing that runs. The tests go in this order:
the last one ends the servers."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from benchmarks.models import poison
from benchmarks.payloads import Payload, payload_for
from benchmarks.steady import SteadyLoad
from router.cli.session import ExitCode
from tests.registries.certificates import Authority
from tests.registries.http_server import Asked, HttpServer, http_server_in_thread, reply
from tests.registries.oci.docker_registry import EMPTY_CONFIG, MANIFEST, TITLE, descriptor, manifest
from tests.system.following import WATCH, until
from tests.system.gateway import SETTLE_TIMEOUT_S, Gateway, a_gateway, endpoint, eventually, write_spec
from tests.system.origins import PLAIN, Origin, origins

pytestmark = pytest.mark.timeout(900)  # the first time, packages are fetched

NOBODY = "127.0.0.1:9"
HUGE_BYTES = 2**49  # no disk has room for that
NOWHERE = "registry.invalid"  # https://www.rfc-editor.org/rfc/rfc2606#section-2
PUSH_TIMEOUT_S = 300.0
FOLLOWED_PER_SECOND = 40
# Together, so that replicas start side by side. MLflow's server takes longest to come up.
BATCHES = (("https", "file", "package"), ("s3", "az", "gs"), ("oras", "locked", "hub", "mlflow"))
STAY = ("mlflow", "oras", "s3")  # these go on serving; what they are named by can come to mean something else


async def lie(asked: Asked, writer: Any) -> None:
    """A registry with one trouble for each repository."""
    match asked.target.split("/")[2]:
        case "locked":
            writer.write(reply(401, b"{}", www_authenticate='Basic realm="models"'))
        case "closed":
            writer.write(reply(403, b'{"errors": [{"code": "DENIED", "message": "not for you"}]}'))
        case "huge":
            layer = descriptor(b"", "application/octet-stream", **{TITLE: "m.onnx"}) | {"size": HUGE_BYTES}
            document = manifest(descriptor(b"{}", EMPTY_CONFIG), [layer])
            writer.write(reply(200, json.dumps(document).encode(), content_type=MANIFEST))
        case "missing":
            writer.write(reply(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'))
        case "busy":
            writer.write(reply(429, b"{}", retry_after="3600"))
        case "broken":
            writer.write(reply(500, b"Traceback: secret internals"))
        case "portal":
            writer.write(reply(200, b"<html><title>Please log in</title></html>", content_type="text/html"))


def at_once(gateway: Gateway, references: Collection[str]) -> dict[str, subprocess.CompletedProcess[str]]:
    """`crossfade model pull` of each; some are tried again for a while."""
    with ThreadPoolExecutor(len(references)) as pool:
        ended = pool.map(lambda reference: gateway.run("model", "pull", reference), references)
        return dict(zip(references, ended, strict=True))


@dataclass(frozen=True)
class World:
    """`digests`: of the models, as they are pushed. `expired`: has a certificate that has. `servers`: all of them, to
    be closed."""

    gateway: Gateway
    origins: dict[str, Origin]
    digests: dict[str, Future[str]]
    liar: HttpServer
    expired: HttpServer
    servers: ExitStack

    def documents(self, kind: str) -> list[dict[str, Any]]:
        only = {"kind": "Deployment", "name": "only", "endpoint": kind, "resources": {"cpu": 0.2}}
        return [endpoint(kind, {"only": 100}), {**only, "model": self.origins[kind].reference}]

    def serve(self, *kinds: str) -> None:
        """If they do not yet."""
        for kind in kinds:
            self.digests[kind].result(PUSH_TIMEOUT_S)
        self.gateway.apply(*(document for kind in kinds for document in self.documents(kind)))

    def told(self, *arguments: str) -> Any:
        """What a command says that succeeds."""
        done = self.gateway.run(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def replicas(self) -> dict[str, set[int]]:
        return {kind: {it.pid for it in self.gateway.replicas_of(kind, "only")} for kind in STAY}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("sources")
    with ExitStack() as servers:
        found = servers.enter_context(origins(folder / "origins", models / "mlp.onnx"))
        liar = servers.enter_context(http_server_in_thread(lie))
        authority = Authority(folder)
        expired = servers.enter_context(http_server_in_thread(lie, authority.server(days_left=-1)))
        settings = {
            "allowed_hosts": [NOWHERE],
            "limits": {"max_size": HUGE_BYTES},
            "hosts": {
                liar.host: PLAIN,
                expired.host: {"ca_bundle": authority.bundle},
                NOBODY: PLAIN,
                **{host: it for one in found.values() for host, it in one.hosts.items()},
            },
            **{key: value for one in found.values() for key, value in one.settings.items()},
        }
        (folder / "registries.yaml").write_text(json.dumps(settings))  # JSON is YAML
        environment = {name: value for one in found.values() for name, value in one.environment.items()}
        options = ("--registries", str(folder / "registries.yaml"))
        with a_gateway(folder, options, environment) as gateway, ThreadPoolExecutor(len(found)) as pool:
            digests = {kind: pool.submit(one.push) for kind, one in found.items()}
            gateway.start()
            yield World(gateway, found, digests, liar, expired, servers)


def check_answer(gateway: Gateway, payload: Payload, name: str) -> None:
    """Raises `WrongAnswer` when it is not the model's own."""
    asked = payload.json
    answer = httpx.post(f"{gateway.url}/v2/models/{name}/infer", content=asked.body, headers=asked.headers, timeout=10)
    assert answer.status_code == 200, answer.text
    asked.check(answer)


@pytest.mark.parametrize("kinds", BATCHES)
def test_what_was_pushed_by_its_own_client_is_pulled_served_and_answers(
    world: World, payload: Payload, tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    gateway = world.gateway
    digests = {kind: world.digests[kind].result(PUSH_TIMEOUT_S) for kind in kinds}
    spec = write_spec(tmp_path / "spec.yaml", [document for kind in kinds for document in world.documents(kind)])
    applied = gateway.run("apply", "-f", str(spec), timeout_s=2 * SETTLE_TIMEOUT_S)
    assert applied.returncode == 0, applied.stderr

    for kind in kinds:
        reference = world.origins[kind].reference
        check_answer(gateway, payload, kind)
        shown = world.told("deployment", "show", kind, "only")
        assert shown["model_sha256"] == shown["lineage"]["digest"] == digests[kind]
        assert shown["lineage"]["origin"]["reference"] == reference
        again = world.told("model", "pull", reference)
        assert (kind, again["digest"], again["fetched_bytes"]) == (kind, digests[kind], 0)
        if kind not in STAY:
            gateway.in_force(gateway.admin.delete_endpoint(kind, is_forced=True))


async def test_an_alias_and_a_tag_that_move_under_load_are_followed_and_a_bad_model_is_rolled_back_and_not_tried_again(
    world: World, models: Path, tmp_path: Path
) -> None:
    """In MLflow and in the OCI registry, side by side."""
    another = onnx.load(models / "mlp.onnx")
    another.doc_string = "trained again"
    onnx.save_model(another, tmp_path / "next.onnx")
    moved = (models / "mlp.onnx", tmp_path / "next.onnx", models / "faulty.onnx")
    await asyncio.gather(*(_followed(world.gateway, world.origins[kind], kind, moved) for kind in ("mlflow", "oras")))


async def _followed(gateway: Gateway, origin: Origin, kind: str, moved: tuple[Path, Path, Path]) -> None:
    first, good, bad = moved
    name, put = f"moving-{kind}", origin.name
    assert put is not None
    reference = await asyncio.to_thread(put, name, first)
    deployed = {"kind": "Deployment", "name": "blue", "endpoint": name, "resources": {"cpu": 0.2}, "model": reference}
    await asyncio.to_thread(gateway.apply, endpoint(name, {"blue": 100}) | {"watch": WATCH}, deployed)
    url, payload = f"{gateway.url}/v2/models/{name}/infer", payload_for(first, name)
    async with SteadyLoad(url, gateway.grpc, payload, FOLLOWED_PER_SECOND) as load:
        before = (await until(gateway, name, lambda watch: watch["stage"] == "current"))["in_service"]["sha256"]
        await asyncio.to_thread(put, name, good)
        followed = await until(
            gateway, name, lambda watch: watch["stage"] == "current" and watch["in_service"]["sha256"] != before
        )
        assert set(await load.split(FOLLOWED_PER_SECOND)) == {"green"}

        load.specials = {"poison": (payload_for(first, name, poison()), 1.0)}
        await asyncio.to_thread(put, name, bad)
        stopped = await until(gateway, name, lambda watch: watch["stage"] == "stopped")
        assert "rolled back" in stopped["barred"][0]["reason"]
        assert stopped["in_service"] == followed["in_service"]
        assert set(await load.split(FOLLOWED_PER_SECOND)) == {"green"}
        await until(gateway, name, lambda watch: watch["answered_at"] > stopped["next_at"])  # it has looked again
        rollouts = await asyncio.to_thread(gateway.admin.rollouts, name)
        assert [rollout["phase"] for rollout in rollouts] == ["rolled_back", "succeeded"]
    assert not load.failures, load.failures[:10]
    await asyncio.to_thread(gateway.admin.delete_endpoint, name, is_forced=True)


def test_trouble_with_a_source_is_told_with_what_to_do_and_touches_nothing_that_runs(
    world: World, payload: Payload, tmp_path: Path
) -> None:
    gateway, liar = world.gateway, world.liar.host
    world.serve(*STAY)
    before = world.replicas()
    troubles = {  # the words that must be in the message: which host, what, and what to do
        f"oci://{liar}/locked:1": (liar, "locked", "401", "registries.yaml"),
        f"oci://{liar}/closed:1": (liar, "does not let us read closed (403, DENIED: not for you)", "registries.yaml"),
        f"oci://{world.expired.host}/m:1": (world.expired.host, "its certificate has expired", "renewed there"),
        f"oci://{liar}/huge:1": ("no room on the disk of", "are to come", "free some space (crossfade model gc)"),
        f"oci://{liar}/missing:1": (liar, "has no '1'", "manifest unknown"),
        f"oci://{liar}/busy:1": (liar, "too many requests (429)", "try again in 3600 s"),
        f"oci://{liar}/broken:1": (liar, "has trouble (500)", "try again later"),
        f"oci://{liar}/portal:1": (liar, "something else than a manifest", "the login page of a proxy"),
        f"oci://{NOBODY}/mlp:1": (NOBODY, "refuses connections", "is it running"),
        f"oci://{NOWHERE}/mlp:1": (NOWHERE, "its name cannot be resolved", "check the spelling"),
        "oci://registry.internal/mlp:1": ("registry.internal", "add registry.internal to allowed_hosts"),
        "models:/mlp@challenger": (next(iter(world.origins["mlflow"].hosts)), "challenger"),
        "s3://models/nothing": ("s3://models/nothing", "no such object"),
    }
    ended = at_once(gateway, troubles)
    for reference, words in troubles.items():
        assert (reference, ended[reference].returncode) == (reference, ExitCode.FAILED)
        said = ended[reference].stderr
        assert [word for word in words if word not in said] == [], said
        assert "internals" not in said

    refused = {f"oci://{liar}/{name}:1": ExitCode.FAILED for name in ("busy", "closed", "huge")}
    refused[f"oci://{world.expired.host}/m:1"] = ExitCode.FAILED
    refused["modles:/mlp@champion"] = ExitCode.USAGE
    for reference, code in refused.items():
        spec = write_spec(tmp_path / "spec.yaml", [{**world.documents("mlflow")[1], "model": reference}])
        applied = gateway.run("apply", "-f", str(spec))
        assert applied.returncode == code, applied.stderr
        for word in (f"{spec}:1", *troubles.get(reference, ())):
            assert word in applied.stderr
    wrong = gateway.run("model", "pull", "modles:/mlp@champion")
    assert wrong.returncode == ExitCode.USAGE
    assert "'modles' is not supported" in wrong.stderr

    assert world.replicas() == before
    for kind in STAY:
        check_answer(gateway, payload, kind)


def test_with_every_source_gone_a_killed_gateway_comes_back_with_the_same_models(
    world: World, payload: Payload
) -> None:
    gateway = world.gateway
    world.serve(*STAY)
    digests = {kind: gateway.admin.deployment(kind, "only")["model_sha256"] for kind in STAY}
    world.servers.close()
    gateway.send(signal.SIGKILL)
    gateway.wait_for_end()
    eventually(lambda: not gateway.processes(), SETTLE_TIMEOUT_S, lambda: str(gateway.kinds()))

    gateway.start()
    before = world.replicas()
    assert all(before.values())
    ended = at_once(gateway, [world.origins[kind].reference for kind in STAY])
    status = gateway.run("status")
    assert status.returncode == ExitCode.DONE
    for kind in STAY:
        reference, (host,) = world.origins[kind].reference, world.origins[kind].hosts
        assert (reference, ended[reference].returncode) == (reference, ExitCode.FAILED)
        for said in (ended[reference].stderr, stale_line(status.stdout, reference)):
            assert f"{host}: it refuses connections: is it running" in said

    assert world.replicas() == before
    for kind in STAY:
        check_answer(gateway, payload, kind)
        shown = world.told("deployment", "show", kind, "only")
        assert (shown["state"], shown["model_sha256"]) == ("ready", digests[kind])


def stale_line(status: str, reference: str) -> str:
    (line,) = [line for line in status.splitlines() if line.startswith("stale") and reference in line]
    return line
