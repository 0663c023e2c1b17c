"""What TLS and a key cost: two gateways with the same tiny model side by side, one open in plain text, one with both.

python -m benchmarks.security [--quick]. Both write their access logs. Exit code 1 when the bar is missed.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from benchmarks import sections
from benchmarks.crossfade import ENDPOINT, PATH_KINDS, crossfade, deployment, endpoint
from benchmarks.load import http_load
from benchmarks.models import tiny_mlp
from benchmarks.payloads import Payload, payload_for
from benchmarks.processes import Child, DidNotStart, free_port
from benchmarks.report import Row
from benchmarks.sections import Bench, Section
from benchmarks.servers import START_TIMEOUT_S, Server
from benchmarks.throughput import Contender, Pair, in_turns, numbers
from router.client import AdminClient
from router.tls_folder import TlsFolder

CONNECTIONS = 32
BAR = 0.85
OPEN, SECURED = "plain text, no key", "TLS and key"


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 7
    turn_s: int = 3


QUICK = Settings(rounds=3, turn_s=2)


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
        _secured(tls_folder, [documents[0] | {"auth_mode": "key"}, documents[1]], payload) as (server, url, key),
    ):
        headers = payload.json.headers
        contenders = [
            Contender.on(plain.server, OPEN, partial(http_load, plain.url, [body], headers, CONNECTIONS)),
            Contender.on(server, SECURED, partial(http_load, url, [body], {**headers, "x-api-key": key}, CONNECTIONS)),
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


@contextmanager
def _secured(folder: Path, documents: list[dict[str, object]], payload: Payload) -> Iterator[tuple[Server, str, str]]:
    """`crossfade up` with a certificate of its own: the server, where it scores, and a key."""
    program, data_dir, spec = str(Path(sys.executable).with_name("crossfade")), folder / "data", folder / "spec.yaml"
    spec.write_text("\n---\n".join(json.dumps(document) for document in documents))
    subprocess.run([program, "tls", "init", "--data-dir", str(data_dir)], check=True, capture_output=True)
    ports = {name: free_port() for name in ("http", "grpc", "metrics", "admin")}
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    command = [program, "up", "-f", str(spec), "--data-dir", str(data_dir), *options]
    log = folder / "crossfade.log"
    child = Child("crossfade with TLS", command, log)
    try:
        started_in_s = child.wait_until(lambda: "Ctrl-C stops" in log.read_text(), START_TIMEOUT_S)
        with AdminClient(f"http://127.0.0.1:{ports['admin']}", (data_dir / "admin.token").read_text().strip()) as admin:
            key = str(admin.create_key(ENDPOINT)["key"])
        url = f"https://127.0.0.1:{ports['http']}/v2/models/{ENDPOINT}/infer"
        trusted = ssl.create_default_context(cafile=TlsFolder.of(data_dir).authority)
        answer = httpx.post(url, content=payload.body, headers={"x-api-key": key}, verify=trusted)
        if answer.status_code != 200:
            raise DidNotStart(f"{url} answers {answer.status_code}: {answer.text}")
        payload.check_json(answer.content)
        yield Server(child, PATH_KINDS, started_in_s), url, key
    finally:
        child.stop()


SECTIONS: dict[str, Section] = {"throughput": throughput}


def main() -> int:
    return sections.run("security", __doc__, SECTIONS, Settings(), QUICK, "about two minutes")


if __name__ == "__main__":
    sys.exit(main())
