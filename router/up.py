"""The flow of `crossfade up`: check, start, show progress, apply specs, follow events, end cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from router.admin_identity import caller
from router.children import children
from router.cli.pulling import line, references_in
from router.config import GatewayConfig, OwnPort, Ports, kept_secret
from router.domain.errors import CrossfadeError
from router.domain.listening import DEFAULT
from router.domain.tls import ListenerTls
from router.log_files import keep_small
from router.machine import raise_open_files
from router.premises import begin_run, check_ports, end_run, last_run, locked, prepare
from router.supervisor import Child, GaveUp, sweep
from router.tls_folder import TlsFolder
from router.up_waiting import POLL_S, Asker, envoy_trouble, error_words, ray_trouble
from router.version import VERSION

START_TIMEOUT_S = 180.0
_APPLY_TIMEOUT_S = 300.0  # models are read and hashed before they are taken
# The longest that requests under way are waited for; a second Ctrl-C ends the waiting.
_DRAIN_TIMEOUT_S = 60.0
# How long Envoy takes new connections after it has begun to tell clients that it ends.
_GOODBYE_S = 1.0

_MODEL_TROUBLE = ("model_not_resolved", "model_damaged", "model_missing", "model_fell_back")

Say = Callable[[str], None]


class StartFailed(CrossfadeError):
    """A part of the gateway did not come up. The message says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for. `ray_address` None: start a Ray head of our own. `documents`: specs to apply.

    `registries`: the settings file that was named, "" for the usual one. `tls` None: scoring speaks plain text.
    `admin`, `metrics`: where the control plane's own ports listen.
    """

    data_dir: Path
    bind: str
    ports: Ports
    ray_address: str | None
    documents: list[dict[str, Any]]
    registries: str = ""
    tls: ListenerTls | None = None
    admin: OwnPort = field(default_factory=lambda: OwnPort("admin"))
    metrics: OwnPort = field(default_factory=lambda: OwnPort("metrics"))


def run_gateway(wanted: Wanted, say: Say) -> int:
    """Run until Ctrl-C or SIGTERM. Returns the exit code. Raises `CannotStart` before anything was started."""
    raise_open_files()
    with locked(wanted.data_dir):
        return asyncio.run(_Gateway(wanted, say).run())


class _Gateway:
    def __init__(self, wanted: Wanted, say: Say) -> None:
        self._wanted = wanted
        self._say = say
        self._started_s = time.monotonic()
        self._children: dict[str, Child] = {}
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        data_dir = self._wanted.data_dir
        left_over = last_run(data_dir)
        if left_over is not None and (ended := await sweep(left_over)):
            self._say(f"ended {len(ended)} processes that an earlier run left behind")
        wanted = self._wanted
        check_ports(wanted.bind, wanted.ports, wanted.admin.bind, wanted.metrics.bind)
        prepared = prepare(data_dir, wanted.bind, wanted.ports, wanted.ray_address)
        config = replace(
            prepared, registries=wanted.registries, tls=wanted.tls, admin=wanted.admin, metrics=wanted.metrics
        )
        run_id = begin_run(data_dir)
        self._say(f"crossfade {VERSION}, data in {data_dir}")
        self._children = {name: Child(spec, self._say) for name, spec in children(config, run_id).items()}
        keepers = [asyncio.create_task(child.keep_running(), name=name) for name, child in self._children.items()]
        keepers.append(asyncio.create_task(keep_small(config.log_dir, config.envoy_admin_socket), name="log files"))
        code = 0
        try:
            await self._until_stopped(self._serve(config), keepers)
        except (StartFailed, GaveUp) as error:
            self._say(f"error: {error}")
            code = 1
        finally:
            await self._shut_down(config)
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await sweep(run_id)
            end_run(config)
        self._say("stopped")
        return code

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
            return
        self._say("stopping: finishing the requests under way (Ctrl-C again cuts them)")
        self._stopping.set()

    async def _until_stopped(self, work: Any, keepers: list[asyncio.Task[None]]) -> None:
        """Run `work` until a stop signal; a child that gave up for good ends it too."""
        serving = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({serving, stopped, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
        finally:
            for task in (serving, stopped):
                task.cancel()
            await asyncio.gather(serving, stopped, return_exceptions=True)

    # -- while it runs

    async def _serve(self, config: GatewayConfig) -> None:
        token = kept_secret(config.admin_token_file)
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(config.admin_socket)),
            base_url="http://admin",
            headers={"authorization": f"Bearer {token}", "x-crossfade-by": caller()},
            timeout=30.0,
        ) as admin:
            asker = Asker(admin)
            await self._step(asker, "control plane", asker.lives())
            if self._wanted.documents:
                await self._fetch_models(admin, self._wanted.documents)
                await self._apply(admin, self._wanted.documents)
            await self._step(asker, "envoy", asker.until(envoy_trouble))
            await self._step(asker, "ray", asker.until(ray_trouble))
            endpoints = [endpoint["name"] for endpoint in (await asker.status())["endpoints"]]
            for name in endpoints:
                try:
                    await self._step(asker, f"endpoint {name}", self._endpoint_settled(asker, name))
                except StartFailed as error:
                    # One endpoint that is not ready must not take the others down.
                    self._say(f"  ! {error}; `crossfade status` says what is missing")
            await self._start_rollouts(admin)
            await self._warn_of_models(admin)
            self._welcome(config, endpoints, (await asker.status())["listeners"])
            await self._follow(admin)

    async def _step(self, asker: Asker, name: str, done: Any) -> None:
        """Wait for one part, telling that we wait when it takes longer than two seconds."""
        waiting = asyncio.create_task(done)
        asker.waits_for = ""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                patience_s = 2.0
                while not (await asyncio.wait({waiting}, timeout=patience_s))[0]:
                    self._say(f"  … {name} ({self._elapsed()})")
                    patience_s = 5.0
            words = waiting.result()
        except TimeoutError:
            why = f": {asker.waits_for}" if asker.waits_for else ""
            raise StartFailed(f"{name} was not ready after {START_TIMEOUT_S:.0f} s{why}") from None
        finally:
            waiting.cancel()
        self._say(f"  ✓ {name}{f': {words}' if words else ''} ({self._elapsed()})")

    async def _endpoint_settled(self, asker: Asker, name: str) -> str:
        """Ready, or broken for a reason: a broken endpoint must not keep the others' gateway from starting."""
        while True:
            status = await asker.status()
            endpoint = next((item for item in status["endpoints"] if item["name"] == name), None)
            if endpoint is None:
                return "deleted"
            if endpoint["state"] not in ("updating",):
                return _endpoint_words(endpoint)
            asker.waits_for = _endpoint_words(endpoint)
            await asyncio.sleep(POLL_S)

    async def _start_rollouts(self, admin: httpx.AsyncClient) -> None:
        """Those of the specs: they waited for their endpoints, so they are applied once more."""
        rollouts = [document for document in self._wanted.documents if document["kind"] == "Rollout"]
        if not rollouts:
            return
        try:
            changes = await self._apply(admin, rollouts)
        except StartFailed as error:
            self._say(f"  ! {error}")
            return
        for change in changes:
            verb = {"created": "has started", "unchanged": "is under way or done"}.get(change["action"], "waits")
            self._say(f"  ✓ rollout of {change['endpoint']} to {change['name']} {verb}")

    async def _fetch_models(self, admin: httpx.AsyncClient, documents: list[dict[str, Any]]) -> None:
        """Have the models here before they are applied. What fails is told by applying, which may do without."""
        for reference in references_in(documents):
            pull: dict[str, Any] = {"state": "running", "id": ""}
            patience_s = 2.0
            while pull["state"] == "running":
                with contextlib.suppress(httpx.TransportError):
                    query = {"timeout_s": str(patience_s)}
                    if pull["id"]:
                        answer = await admin.get(f"/api/v1/models/pulls/{pull['id']}", params=query)
                    else:
                        body = {"reference": reference}
                        answer = await admin.post("/api/v1/models/pulls", json=body, params=query)
                    pull = dict(answer.json()) if answer.status_code == 200 else {"state": "unknown"}
                    if pull["state"] == "running":
                        self._say(f"  … {line(pull)}")
                        patience_s = 5.0
                    continue
                await asyncio.sleep(POLL_S)

    async def _apply(self, admin: httpx.AsyncClient, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The changes. Applying is idempotent, so a control plane that dies meanwhile is simply asked again."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await admin.post("/api/v1/apply", json={"documents": documents}, timeout=_APPLY_TIMEOUT_S)
                if answer.status_code == 200:
                    changes: list[dict[str, Any]] = answer.json()["changes"]
                    return changes
                raise StartFailed(f"the specs were refused: {error_words(answer)}")
            await asyncio.sleep(POLL_S)

    async def _warn_of_models(self, admin: httpx.AsyncClient) -> None:
        """What is served is perhaps not what was asked for: it was not told yet, and must not be overlooked."""
        with contextlib.suppress(httpx.TransportError):
            for event in (await admin.get("/api/v1/events")).json()["events"]:
                if event["kind"] in _MODEL_TROUBLE:
                    self._say(f"  ! {event['message']}")

    def _welcome(self, config: GatewayConfig, endpoints: list[str], listeners: list[dict[str, Any]]) -> None:
        self._say("")
        for item in listeners:
            if item["name"] == DEFAULT:
                how = f"HTTP/1.1, HTTP/2, gRPC; gRPC on port {config.ports.grpc} as well"
                self._say(f"  scoring  {config.scoring_url}  ({how})")
            else:
                self._say(f"  scoring  {item['address']} port {item['ports'][0]}  (listener {item['name']})")
        if config.ports.redirect_http:
            self._say(f"           plain HTTP on port {config.ports.redirect_http} is sent there")
        self._say(f"  metrics  {config.metrics_url}")
        self._say(f"  admin    {config.admin_url}/api/v1  (token: {config.admin_token_file})")
        if endpoints:
            self._say("")
            self._say("  try it in another terminal:")
            self._say(f"    {_crossfade()} endpoint invoke {endpoints[0]} --sample{_elsewhere(config)}")
            self._say(f"    curl {_trusting(config)}{config.scoring_url}/v2/models/{endpoints[0]}")
        self._say("")
        ended = "everything." if config.is_ray_ours else "the gateway; its replicas in Ray go on."
        self._say(f"  Ctrl-C stops {ended}")

    async def _follow(self, admin: httpx.AsyncClient) -> None:
        """One line an event, for as long as the gateway runs; a control plane that was restarted is joined again."""
        seen: int | None = None
        while True:
            with contextlib.suppress(httpx.TransportError):
                if seen is None:
                    seen = int((await admin.get("/api/v1/events")).json()["last_id"])
                async for event in _events(admin, seen):
                    seen = event["id"]
                    self._say(f"{time.strftime('%H:%M:%S')} {event['message']}")
            await asyncio.sleep(0.5)

    # -- the end

    async def _shut_down(self, config: GatewayConfig) -> None:
        """Envoy stops accepting and drains; then everybody in turn. A second Ctrl-C skips the draining."""
        drain = asyncio.create_task(_drain_envoy(config))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({drain, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, hurry):
            task.cancel()
        for name in ("envoy", "control plane", "ray"):
            if name in self._children:
                await self._children[name].stop()

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._started_s:.1f} s"


async def _drain_envoy(config: GatewayConfig) -> None:
    """Tell clients to go, refuse new connections, then wait for the requests under way.

    Envoy announces the end on every reply (connection: close, GOAWAY) from the first call on, and closes its listeners
    with the second, when clients have had a moment to notice. Only then does "nothing is active" mean that nothing more
    will come.
    """
    transport = httpx.AsyncHTTPTransport(uds=str(config.envoy_admin_socket))
    with contextlib.suppress(httpx.HTTPError, TimeoutError):
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=2.0) as envoy:
            await envoy.post("/drain_listeners?graceful")
            await asyncio.sleep(_GOODBYE_S)
            await envoy.post("/drain_listeners")
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                # Envoy can only be asked.
                while not _has_drained((await envoy.get("/stats", params={"filter": _DRAIN_STATS})).text):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


_ACTIVE, _STOPPED = "http.scoring.downstream_rq_active", "listener_manager.listener_stopped"
_DRAIN_STATS = f"^({_ACTIVE}|{_STOPPED})$".replace(".", "\\.")


def _has_drained(stats: str) -> bool:
    values = dict(line.split(": ") for line in stats.strip().splitlines())
    return values.get(_ACTIVE, "0") == "0" and values.get(_STOPPED, "0") != "0"


async def _events(admin: httpx.AsyncClient, after: int) -> AsyncIterator[dict[str, Any]]:
    async with admin.stream("GET", "/api/v1/events", params={"after": after, "follow": True}, timeout=None) as answer:
        async for line in answer.aiter_lines():
            yield json.loads(line)


def _endpoint_words(endpoint: dict[str, Any]) -> str:
    shares = " ".join(f"{name}={percent}" for name, percent in endpoint["in_force"]["traffic"].items())
    parts = [
        f"{item['name']} {item['state']}" + (f" ({item['reason']})" if item["reason"] else "")
        for item in endpoint["deployments"]
    ]
    return f"{shares or 'no traffic'}; {', '.join(parts) or 'no deployments'}"


def _crossfade() -> str:
    """The command as this shell can run it."""
    return sys.argv[0] if "/" in sys.argv[0] else "crossfade"


def _trusting(config: GatewayConfig) -> str:
    """curl's option for a CA of our own."""
    folder = TlsFolder.of(Path(config.data_dir))
    is_own = config.tls is not None and folder.server in config.tls.certificates
    return f"--cacert {folder.authority} " if is_own else ""


def _elsewhere(config: GatewayConfig) -> str:
    where = "" if config.ports.http == Ports().http else f" --scoring-url {config.scoring_url}"
    if _trusting(config):
        where += f" --ca-file {TlsFolder.of(Path(config.data_dir)).authority}"
    return where
