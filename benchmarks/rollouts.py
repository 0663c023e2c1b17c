"""What rollouts promise, measured with a real gateway under load.

    python -m benchmarks.rollouts [--quick] [--only SECTION]... [--share SHARE]... [--output FOLDER]

Exit codes: 0 every bar is met · 1 one is not, or a section failed · 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.crossfade import CONTROL_PLANE_KIND, ENDPOINT, ChangeFailed, Gateway, crossfade, deployment, endpoint
from benchmarks.models import faulty_mlp, poison, slow_mlp, tiny_mlp
from benchmarks.payloads import Payload, payload_for
from benchmarks.processes import DidNotStart
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.rolling import DECIDED, ENDED, RolloutAdmin, decided_at, sent_to_candidate, shown
from benchmarks.steady import SteadyLoad

DEFAULT_OUTPUT = Path(__file__).parent / "results"
REQUESTS_PER_SECOND = 300
SLOW_REQUESTS_PER_SECOND = 60
OWN_SHARE = 0.001  # of the requests fail on stable, where it is not perfect
MODEL_STEPS = {"blue": 40, "slow": 120, "hardly-slower": 42}  # matrix products in a row
_LOG_FLUSHED_S = 11.0  # Envoy writes its access log every 10 s
_LIMIT_S = 150.0
_FAULT_LIMIT_S = 400.0  # what is rare takes long to be told from chance
_CANARY_LIMIT_S = 1200.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    shares: tuple[float, ...] = (1.0, 0.05, 0.01)  # of the requests that a candidate fails
    rollbacks: int = 20
    faults: int = 10
    rounds: int = 334  # of three changes each
    kills: int = 50
    seed: int = 1


QUICK = Settings(rollbacks=5, faults=3, rounds=20, kills=8)


@dataclass(frozen=True, slots=True)
class Bench:
    settings: Settings
    gateway: Gateway
    admin: RolloutAdmin
    payload: Payload
    poison: Payload  # what `faulty` cannot answer, and everybody else can
    bane: Payload  # what `blue` cannot answer either, where it is not perfect

    def load(self, per_second: float = REQUESTS_PER_SECOND) -> SteadyLoad:
        return SteadyLoad(self.gateway.url, self.gateway.grpc_address, self.payload, per_second)


def analyze(bake: str = "5s", min_requests: int = 50) -> dict[str, Any]:
    return {"analyze": {"bake": bake, "min_requests": min_requests}}


def weight(percent: int) -> dict[str, int]:
    return {"set_weight": percent}


def stairs(*percents: int, bake: str = "5s") -> list[Any]:
    return [step for percent in percents for step in (weight(percent), analyze(bake))]


async def faults(bench: Bench) -> list[Row]:
    """Candidates that fail many or few of the requests, of which stable fails 0.1% itself."""
    rows = []
    for share in bench.settings.shares:
        await bench.admin.all_on_blue()
        async with bench.load() as load:
            load.specials = {"own": (bench.bane, OWN_SHARE), "poison": (bench.poison, share - OWN_SHARE)}
            await load.split(2 * REQUESTS_PER_SECOND)  # stable is known by then
            started_s = time.monotonic()
            await bench.admin.start("faulty", stairs(10, 50, 100, bake="10s"))
            rollout = await bench.admin.until_phase(DECIDED, _FAULT_LIMIT_S)
            took_s = time.monotonic() - started_s
            await load.split(REQUESTS_PER_SECOND)
        is_back = rollout["phase"] == "rolled_back"
        total, own = load.sent.total(), load.sent["own"]
        beyond = [failure for failure in load.failures if failure.kind != "own"]
        rows.append(
            Row(
                title=f"a candidate that fails {share:.0%} of {REQUESTS_PER_SECOND} requests/s, stable {OWN_SHARE:.1%}",
                bar="rolled back, users see 0 failed beyond stable's own",
                crossfade=f"{rollout['phase']} after {took_s:.1f} s; of {total:,} requests stable fails {own} itself, "
                f"users saw {len(load.failures)} fail, {len(beyond)} of them others: {rollout['reason']}",
                is_met=is_back and not beyond and len(load.failures) <= own,
                details={
                    "took_s": took_s,
                    "sent": dict(load.sent),
                    "beyond": [failure.reason for failure in beyond[:20]],
                },
            )
        )
        say(f"  {rows[-1].crossfade}")
    return rows


async def canary(bench: Bench) -> list[Row]:
    """The canary that one gets without asking for anything, to a candidate that is as good: about ten minutes."""
    await bench.admin.all_on_blue()
    async with bench.load() as load:
        await load.split(2 * REQUESTS_PER_SECOND)
        started_s = time.monotonic()
        await bench.admin.start_strategy("green", "canary")
        rollout = await bench.admin.until_phase((*DECIDED, "paused"), _CANARY_LIMIT_S)
        took_s = time.monotonic() - started_s
        await load.split(REQUESTS_PER_SECOND)
    return [
        Row(
            title=f"the default canary, unattended, {REQUESTS_PER_SECOND} requests/s",
            bar="promoted, 0 failed",
            crossfade=f"{rollout['phase']} after {took_s:.0f} s; {len(load.failures)} failed: {rollout['reason']}",
            is_met=rollout["phase"] == "promoted" and not load.failures,
            details={"took_s": took_s, "failures": [failure.reason for failure in load.failures[:20]]},
        )
    ]


async def rollbacks(bench: Bench) -> list[Row]:
    """From the decision until the candidate gets its last request."""
    decided: list[float] = []
    async with bench.load() as load:
        load.specials = {"poison": (bench.poison, 1.0)}
        for _ in range(bench.settings.rollbacks):
            await bench.admin.all_on_blue()
            started = await bench.admin.start("faulty", stairs(50, 100))
            await bench.admin.until_phase(ENDED, _LIMIT_S)
            decided.append(decided_at(await bench.admin.trail(started["id"])))
            await asyncio.sleep(0.5)  # so that the requests of one rollback are told from those of the next
        await asyncio.sleep(_LOG_FLUSHED_S)
    sent = sent_to_candidate(bench.gateway.data_dir / "logs" / "access.jsonl", "faulty")
    delays_ms = []
    for at, next_at in zip(decided, [*decided[1:], float("inf")], strict=True):
        last = max((moment for moment in sent if moment < min(next_at, at + 0.5)), default=at)
        delays_ms.append(max(0.0, last - at) * 1000)
    worst_ms = max(delays_ms)
    return [
        Row(
            title=f"decision → last request to the candidate, {len(decided)} rollbacks under load",
            bar="p99 ≤ 250 ms",
            crossfade=f"p50 {median(delays_ms):.0f} ms, max {worst_ms:.0f} ms; {len(load.failures)} failed",
            is_met=worst_ms <= 250 and not load.failures,
            details={"delays_ms": [round(delay, 1) for delay in delays_ms]},
        )
    ]


async def detection(bench: Bench) -> list[Row]:
    """From the first failure of a candidate that had been well until the rollback is decided."""
    delays_s = []
    async with bench.load() as load:
        for _ in range(bench.settings.faults):
            load.specials = {}
            await bench.admin.all_on_blue()
            started = await bench.admin.start("faulty", [weight(10), analyze("1h"), weight(100)])
            await bench.admin.until(lambda rollout: rollout["weight"] == 10, _LIMIT_S)
            await load.split(2 * REQUESTS_PER_SECOND)
            began = time.time()
            load.specials = {"poison": (bench.poison, 1.0)}
            await bench.admin.until_phase(ENDED, _LIMIT_S)
            delays_s.append(decided_at(await bench.admin.trail(started["id"])) - began)
    return [
        Row(
            title=f"fault begins → rollback decided, all requests fail at 10% weight, {len(delays_s)} times",
            bar="≤ 3 s",
            crossfade=f"p50 {median(delays_s):.1f} s, max {max(delays_s):.1f} s; {len(load.failures)} failed",
            is_met=max(delays_s) <= 3 and not load.failures,
            details={"delays_s": delays_s},
        )
    ]


async def latency(bench: Bench) -> list[Row]:
    """A candidate that is three times slower, and one that is 5% slower."""
    rows = []
    analysis = {"burst": "2s", "max_wait": "100s"}
    for candidate, bar, wanted in (
        ("slow", "3× slower: rolled back by latency", ("rolled_back",)),
        ("hardly-slower", "5% slower, within the margin: not rolled back", ("promoted", "paused")),
    ):
        await bench.admin.all_on_blue()
        async with bench.load(SLOW_REQUESTS_PER_SECOND) as load:
            await load.split(10 * SLOW_REQUESTS_PER_SECOND)
            started_s = time.monotonic()
            await bench.admin.start(candidate, stairs(50, 100), analysis)
            rollout = await bench.admin.until_phase((*DECIDED, "paused"), _LIMIT_S)
            took_s = time.monotonic() - started_s
            if rollout["phase"] == "paused":
                await bench.admin.command("abort")
        rows.append(
            Row(
                title=f"a candidate that is {bar.partition(':')[0]}",
                bar=bar.partition(": ")[2],
                crossfade=f"{rollout['phase']} after {took_s:.1f} s; {len(load.failures)} failed: {rollout['reason']}",
                is_met=rollout["phase"] in wanted and not load.failures,
                details={"took_s": took_s, "rollout": rollout},
            )
        )
        say(f"  {rows[-1].crossfade}")
    return rows


async def changes(bench: Bench) -> list[Row]:
    """Weight changes, promote and undo."""
    await bench.admin.all_on_blue()
    replicas = _replicas(bench)
    started_s, undo_ms = time.monotonic(), []
    async with bench.load() as load:
        for number in range(bench.settings.rounds):
            await bench.admin.start("green", [weight(50), {"pause": "until_promoted"}, weight(100)])
            await bench.admin.until_phase(("paused",), _LIMIT_S)
            await bench.admin.command("promote", {"full": number % 2 == 0})
            await bench.admin.until_phase(("promoted",), _LIMIT_S)
            asked_s = time.monotonic()
            back = await bench.admin.command("undo")
            await bench.admin.until(_is_promoted(back["id"]), _LIMIT_S)
            undo_ms.append((time.monotonic() - asked_s) * 1000)
            if number % 50 == 49:
                say(f"  {3 * number + 3} changes, {len(load.failures)} failed")
        took_s = time.monotonic() - started_s
        await load.split(REQUESTS_PER_SECOND)
    is_same = _replicas(bench) == replicas
    count = 3 * bench.settings.rounds
    return [
        Row(
            title=f"{count:,} weight changes by rollout, promote and undo under load",
            bar="0 failed, no replica restarted",
            crossfade=f"{len(load.failures)} failed, replicas {'the same' if is_same else 'restarted'}; "
            f"{took_s / count * 1000:.0f} ms a change, undo p50 {median(undo_ms):.0f} ms, max {max(undo_ms):.0f} ms",
            is_met=not load.failures and is_same,
            details={"failures": [failure.reason for failure in load.failures[:20]]},
        )
    ]


async def kills(bench: Bench) -> list[Row]:
    """kill -9 of the control plane at random moments of a rollout; its supervisor pauses between starts: 6 s a kill."""
    dice = random.Random(bench.settings.seed)
    left, rollouts, wrong = bench.settings.kills, 0, []
    async with bench.load() as load:
        while left:
            await bench.admin.all_on_blue()
            started = await bench.admin.start("green", stairs(10, 50, 100, bake="2s"), {"error_margin": 0.05})
            rollouts += 1
            while left:
                await asyncio.sleep(dice.uniform(0, 1.5))
                if (await bench.admin.rollout())["phase"] in DECIDED:
                    break
                bench.gateway.server.child.find(CONTROL_PLANE_KIND)[0].kill()
                left -= 1
                await bench.admin.rollout()
                if left % 10 == 0:
                    say(f"  {bench.settings.kills - left} kills, {len(load.failures)} failed")
            rollout = await bench.admin.until_phase(DECIDED, _LIMIT_S)
            revisions = [entry["revision"] for entry in await bench.admin.trail(started["id"])]
            if rollout["phase"] != "promoted" or revisions != list(range(1, len(revisions) + 1)):
                wrong.append(f"{shown(rollout)}; audit {revisions}")
            say(f"  {bench.settings.kills - left} kills, {rollouts} rollouts, {len(load.failures)} failed")
        await load.split(REQUESTS_PER_SECOND)
    return [
        Row(
            title=f"kill -9 of the control plane at {bench.settings.kills} random moments of {rollouts} rollouts",
            bar="same final state, 0 failed, audit without gap or double",
            crossfade=f"{len(wrong)} of {rollouts} ended otherwise; {len(load.failures)} failed",
            is_met=not wrong and not load.failures,
            details={"wrong": wrong, "failures": [failure.reason for failure in load.failures[:20]]},
        )
    ]


SECTIONS: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "faults": faults,
    "canary": canary,
    "rollbacks": rollbacks,
    "detection": detection,
    "latency": latency,
    "changes": changes,
    "kills": kills,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and no canary: about six minutes")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure this section alone; may be repeated")
    parser.add_argument(
        "--share",
        action="append",
        type=float,
        help="in faults: a candidate that fails this share alone, as 0.05",
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder for rollouts.json and rollouts.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # so that the gateway is ended in order then, too
    settings = QUICK if arguments.quick else Settings()
    settings = replace(settings, shares=tuple(arguments.share or settings.shares))
    rows: list[Row] = []
    try:
        sections = arguments.only or [name for name in SECTIONS if not (arguments.quick and name == "canary")]
        outcomes = [_measure(name, settings, rows) for name in sections]
    except KeyboardInterrupt:
        say("interrupted; the gateway has been stopped")
        return 130
    print(report.markdown(rows))
    for path in report.write("rollouts", rows, settings, arguments.output):
        say(f"written to {path}")
    return 0 if all(outcomes) and all(row.is_met is not False for row in rows) else 1


def _measure(name: str, settings: Settings, rows: list[Row]) -> bool:
    """Whether the section gave its rows. Each has a gateway of its own, with a short path: Ray puts sockets there."""
    say(f"{name}: {(SECTIONS[name].__doc__ or '').strip()}")
    with tempfile.TemporaryDirectory(prefix="cfr-", ignore_cleanup_errors=True) as home:
        folder = Path(home)
        tiny_mlp(folder / "mlp.onnx")
        faulty_mlp(folder / "faulty.onnx")
        models = {"blue": "mlp.onnx", "green": "mlp.onnx", "faulty": "faulty.onnx"}
        if name == "latency":
            models = {deployed: f"{deployed}.onnx" for deployed in MODEL_STEPS}
            for deployed, steps in MODEL_STEPS.items():
                slow_mlp(folder / models[deployed], steps)
        elif name in ("canary", "changes", "kills"):
            del models["faulty"]
        else:
            del models["green"]
        if name == "faults":
            faulty_mlp(folder / "faulty.onnx", columns=(0, 1))
            faulty_mlp(folder / "imperfect.onnx", columns=(1,))
            models["blue"] = "imperfect.onnx"
        payload = payload_for(folder / models["blue"], ENDPOINT)
        poisoned, bane = (payload_for(folder / "mlp.onnx", ENDPOINT, poison(column)) for column in (0, 1))
        documents = [endpoint(ENDPOINT, {"blue": 100})]
        documents += [deployment(ENDPOINT, deployed, folder / file) for deployed, file in models.items()]
        try:
            with crossfade(folder, documents, payload) as gateway:
                rows += asyncio.run(_run(name, settings, gateway, payload, poisoned, bane))
        except (DidNotStart, ChangeFailed) as error:
            say(f"{name} failed: {error}")
            return False
    return True


async def _run(name: str, settings: Settings, gateway: Gateway, *payloads: Payload) -> list[Row]:
    async with RolloutAdmin(gateway) as admin:
        await admin.wait_until_replicas_are_ready()
        return await SECTIONS[name](Bench(settings, gateway, admin, *payloads))


def _is_promoted(rollout_id: str) -> Callable[[dict[str, Any]], bool]:
    return lambda rollout: rollout["id"] == rollout_id and rollout["phase"] == "promoted"


def _replicas(bench: Bench) -> set[int]:
    return {process.pid for process in bench.gateway.server.child.find("ServeReplica")}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
