"""What clients that mean harm cost those that do not: throughput with and without them, on the same gateway, in turns;
and what a limit costs an endpoint.

python -m benchmarks.hostile [--quick]. Everything on loopback, at bounded rates (attackers.py). Exit code 1 when a bar
is missed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import attackers, sections
from benchmarks.crossfade import ENDPOINT, Gateway, crossfade, deployment, endpoint
from benchmarks.load import Load, LoadFailed, http_load
from benchmarks.models import tiny_mlp
from benchmarks.payloads import Payload, payload_for
from benchmarks.report import Row
from benchmarks.sections import Bench, Section
from benchmarks.throughput import Contender, Pair, in_turns, numbers

CONNECTIONS = 32
BAR = 0.80
ALONE, LIMITED, COUNTED = "nobody else", "limited", "counted"
# Until all of the slow connections are there. Attackers run at the lowest priority: what they themselves take of the
# machine is no cost of the gateway's, and their rates need little of it.
_ATTACK_BEGINS_S = 3.0
_LOWEST_PRIORITY = ("nice", "-n", "19")

ATTACKS = {
    "slow": f"{attackers.SLOW_CONNECTIONS:,} slow connections",
    "connections": f"{attackers.CONNECTIONS_A_SECOND:,} new connections a second",
    "streams": f"{attackers.STREAMS_A_SECOND:,} streams a second, reset at once",
    "frames": f"{attackers.FRAMES_A_SECOND:,} pings, settings and window updates a second",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 5
    turn_s: int = 4


QUICK = Settings(rounds=3, turn_s=2)


def attacks(bench: Bench[Settings]) -> list[Row]:
    """Healthy clients' JSON requests over kept connections, alone and under each attack."""
    with crossfade(bench.folder, _documents(bench.folder), _payload(bench.folder)) as gateway:
        load = _load(bench.folder, gateway.url)
        contenders = [Contender.on(gateway.server, ALONE, load)]
        contenders += [
            Contender.on(gateway.server, words, partial(_under_attack, kind, gateway, load))
            for kind, words in ATTACKS.items()
        ]
        samples = in_turns(contenders, bench.settings.rounds, bench.settings.turn_s)
    rows = []
    for words in ATTACKS.values():
        pair = Pair.of(samples[words], samples[ALONE])
        own, other = pair.middles("per_second")
        ratios = pair.ratios("per_second")
        rows.append(
            Row(
                title=f"healthy clients beside {words}, JSON, {CONNECTIONS} connections",
                bar=f"≥ {BAR:.0%} of without",
                crossfade=f"{own:,.0f}/s",
                peer=f"{ALONE}: {other:,.0f}/s",
                ratio=f"{ratios[0]:.2f}× ({ratios[1]:.2f}× round by round{pair.remark})",
                is_met=max(ratios) >= BAR,
                details={"turns": numbers({name: samples[name] for name in (ALONE, words)})},
            )
        )
    return rows


def limits(bench: Bench[Settings]) -> list[Row]:
    """What limits that are never reached cost: endpoints with a rate, and with a number of requests under way, beside
    one without."""
    model = bench.folder / "mlp.onnx"
    ample = {
        LIMITED: {"requests_per_second": 1_000_000, "burst": 10_000_000},
        COUNTED: {"concurrent_requests": 1_000_000},
    }
    documents = _documents(bench.folder)
    for name, these in ample.items():
        documents += [endpoint(name, {"blue": 100}) | {"limits": these}, deployment(name, "blue", model, cpu=1)]
    with crossfade(bench.folder, documents, _payload(bench.folder)) as gateway:
        contenders = [
            Contender.on(gateway.server, name, _load(bench.folder, gateway.url_of(name))) for name in (ENDPOINT, *ample)
        ]
        samples = in_turns(contenders, bench.settings.rounds, bench.settings.turn_s)
    envoy_us = {
        name: sorted(sample.cpu_us_by_kind["envoy"] for sample in taken)[len(taken) // 2]
        for name, taken in samples.items()
    }
    return [
        Row(
            title=f"CPU of Envoy per JSON request to an endpoint with {words}",
            bar="",
            crossfade=f"{envoy_us[name]:.1f} µs",
            peer=f"without: {envoy_us[ENDPOINT]:.1f} µs",
            details={"turns": numbers({one: samples[one] for one in (ENDPOINT, name)})},
        )
        for name, words in ((LIMITED, "a rate"), (COUNTED, "a number of requests under way"))
    ]


def _documents(folder: Path) -> list[dict[str, object]]:
    model = folder / "mlp.onnx"
    tiny_mlp(model)
    return [endpoint(ENDPOINT, {"blue": 100}), deployment(ENDPOINT, "blue", model, cpu=1)]


def _payload(folder: Path) -> Payload:
    return payload_for(folder / "mlp.onnx", ENDPOINT)


def _load(folder: Path, url: str) -> Callable[[int], Load]:
    payload, body = _payload(folder), folder / "body.json"
    body.write_bytes(payload.body)
    return partial(http_load, url, [body], payload.json.headers, CONNECTIONS)


def _under_attack(kind: str, gateway: Gateway, load: Callable[[int], Load], duration_s: int) -> Load:
    url = urlsplit(gateway.url)
    attack = (sys.executable, "-m", "benchmarks.attackers", kind, str(url.port), url.path)
    attacker = subprocess.Popen([*_LOWEST_PRIORITY, *attack])
    try:
        time.sleep(_ATTACK_BEGINS_S)
        done = load(duration_s)
        if attacker.poll() is not None:
            raise LoadFailed(f"the attackers ({kind}) ended by themselves, with code {attacker.returncode}")
        return done
    finally:
        attacker.kill()
        attacker.wait()


SECTIONS: dict[str, Section] = {"attacks": attacks, "limits": limits}


def main() -> int:
    return sections.run("hostile", __doc__, SECTIONS, Settings(), QUICK, "about two minutes")


if __name__ == "__main__":
    sys.exit(main())
