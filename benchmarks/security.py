"""What TLS and a key cost: two gateways with the same tiny model side by side, one open in plain text, one with both.
And what it costs callers when keys and certificates are replaced under load.

python -m benchmarks.security [--quick]. Both write their access logs. Exit code 1 when the bar is missed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from benchmarks import sections
from benchmarks.crossfade import ENDPOINT, crossfade, deployment, endpoint
from benchmarks.load import http_load
from benchmarks.models import tiny_mlp
from benchmarks.payloads import payload_for
from benchmarks.report import Row
from benchmarks.rotations import certificate_rotations, key_rotations
from benchmarks.sections import Bench, Section
from benchmarks.secured import secured
from benchmarks.throughput import Contender, Pair, in_turns, numbers

CONNECTIONS = 32
BAR = 0.85
OPEN, SECURED = "plain text, no key", "TLS and key"


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 7
    turn_s: int = 3
    rotations: int = 100


QUICK = Settings(rounds=3, turn_s=2, rotations=10)


def throughput(bench: Bench[Settings]) -> list[Row]:
    """JSON requests over kept connections, in turns."""
    model, body = bench.folder / "mlp.onnx", bench.folder / "body.json"
    tiny_mlp(model)
    payload = payload_for(model, ENDPOINT)
    body.write_bytes(payload.body)
    documents = [endpoint(ENDPOINT, {"blue": 100}), deployment(ENDPOINT, "blue", model, cpu=1)]
    plain_folder, tls_folder = bench.folder / "plain", bench.folder / "tls"
    plain_folder.mkdir()
    tls_folder.mkdir()
    with (
        crossfade(plain_folder, documents, payload) as plain,
        secured(tls_folder, [documents[0] | {"auth_mode": "key"}, documents[1]], payload) as gateway,
    ):
        headers = payload.json.headers
        with_key = {**headers, "x-api-key": gateway.key}
        contenders = [
            Contender.on(plain.server, OPEN, partial(http_load, plain.url, [body], headers, CONNECTIONS)),
            Contender.on(gateway.server, SECURED, partial(http_load, gateway.url, [body], with_key, CONNECTIONS)),
        ]
        samples = in_turns(contenders, bench.settings.rounds, bench.settings.turn_s)
    pair = Pair.of(samples[SECURED], samples[OPEN])
    own, other = pair.middles("per_second")
    own_us, other_us = pair.middles("path_cpu_us")
    ratios = pair.ratios("per_second")
    return [
        Row(
            title=f"throughput with TLS and a key, JSON, {CONNECTIONS} connections",
            bar=f"≥ {BAR:.0%} of without",
            crossfade=f"{own:,.0f}/s, {own_us:.0f} µs of CPU",
            peer=f"{OPEN}: {other:,.0f}/s, {other_us:.0f} µs",
            ratio=f"{ratios[0]:.2f}× ({ratios[1]:.2f}× round by round{pair.remark})",
            is_met=min(ratios) >= BAR,
            details={"turns": numbers(samples)},
        )
    ]


def rotations(bench: Bench[Settings]) -> list[Row]:
    """Of keys and of certificates, under load."""
    model = bench.folder / "mlp.onnx"
    tiny_mlp(model)
    payload = payload_for(model, ENDPOINT)
    documents = [endpoint(ENDPOINT, {"blue": 100}) | {"auth_mode": "key"}, deployment(ENDPOINT, "blue", model, cpu=1)]
    with secured(bench.folder, documents, payload) as gateway:
        certificates = certificate_rotations(gateway, payload.body, bench.settings.rotations)
        return [key_rotations(gateway, payload.body, bench.settings.rotations), certificates]


SECTIONS: dict[str, Section] = {"throughput": throughput, "rotations": rotations}


def main() -> int:
    return sections.run("security", __doc__, SECTIONS, Settings(), QUICK, "about two minutes")


if __name__ == "__main__":
    sys.exit(main())
