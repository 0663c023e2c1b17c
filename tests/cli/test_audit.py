"""`make audit`: fails for a known vulnerability, and says what to do when nobody can be asked."""

from __future__ import annotations

import json
import os
import subprocess
from asyncio import StreamWriter
from pathlib import Path

from benchmarks.processes import free_port
from tests.registries.http_server import Asked, Behaviour, http_server_in_thread, reply

ROOT = Path(__file__).parents[2]


def database(vulnerable: str = "") -> Behaviour:
    """The OSV service (https://google.github.io/osv.dev/api), which knows at most one vulnerability."""
    known = {
        "id": "OSV-1",
        "summary": "lets everybody in",
        "modified": "2026-01-01T00:00:00Z",
        "affected": [{"package": {"ecosystem": "PyPI", "name": vulnerable}, "versions": []}],
    }

    async def behave(asked: Asked, writer: StreamWriter) -> None:
        answer: object = known
        if asked.target == "/v1/querybatch":
            names = [query["package"]["name"] for query in json.loads(asked.body)["queries"]]
            hit = {"vulns": [{"id": "OSV-1", "modified": known["modified"]}]}
            answer = {"results": [hit if name == vulnerable else {} for name in names]}
        writer.write(reply(200, json.dumps(answer).encode(), content_type="application/json"))

    return behave


def audit(url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "UV_HTTP_RETRIES": "0", "UV_NO_CACHE": "1"}
    return subprocess.run(
        ["make", "audit", f"AUDIT_URL={url}"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )


def test_packages_that_nobody_warns_of_pass() -> None:
    with http_server_in_thread(database()) as osv:
        done = audit(osv.url)
        asked = json.loads(osv.asked[0].body)["queries"]
    assert done.returncode == 0, done.stderr
    assert {"ray", "cryptography", "httpx"} <= {query["package"]["name"] for query in asked}


def test_a_known_vulnerability_fails_it_and_is_named() -> None:
    with http_server_in_thread(database("cryptography")) as osv:
        done = audit(osv.url)
    assert done.returncode != 0
    assert "OSV-1" in done.stdout + done.stderr
    assert "raise the packages above" in done.stderr


def test_when_nobody_answers_it_fails_and_says_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = audit(url)
    assert done.returncode != 0
    assert f"nothing was looked up. Run it where {url} answers" in done.stderr
    assert "AUDIT_URL=" in done.stderr
