"""`crossfade token`, `crossfade quota` and `crossfade audit` as typed."""

from __future__ import annotations

import json

from tests.cli.conftest import Terminal

SPEC = """
kind: Endpoint
name: fraud
group: fraud-team
---
kind: Deployment
name: blue
endpoint: fraud
model: file:/blue.onnx
"""


def test_a_tokens_secret_goes_to_a_file_and_opens_what_it_is_for(terminal: Terminal) -> None:
    made = terminal.run("token", "create", "ci", "--role", "viewer", "--group", "fraud-team", "--valid-for", "90d")
    assert made.code == 0
    assert "viewer's token 'ci', for fraud-team, until 2026-04-02" in made.err
    (terminal.data_dir / "ci.token").write_text(made.out)
    ci = ("--token-file", str(terminal.data_dir / "ci.token"))
    assert terminal.run("endpoint", "list", *ci).code == 0
    refused = terminal.run("quota", "set", "fraud-team", "--replicas", "1", *ci)
    assert refused.code == 1
    assert "needs the role admin" in refused.err
    assert "ci    viewer  fraud-team" in terminal.run("token", "list").out
    assert terminal.run("token", "revoke", "ci").code == 0
    assert terminal.run("endpoint", "list", *ci).code == 1


def test_mistakes_say_what_to_write(terminal: Terminal) -> None:
    wrong = terminal.run("token", "create", "ci", "--valid-for", "soon")
    assert (wrong.code, "write it like 90d, 12h or 30m" in wrong.err) == (2, True)
    none = terminal.run("quota", "set", "fraud-team")
    assert (none.code, "name one, such as --replicas 20" in none.err) == (2, True)
    unknown = terminal.run("token", "revoke", "nobody")
    assert (unknown.code, "does not exist" in unknown.err) == (1, True)


def test_a_quota_is_shown_beside_what_is_used(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC), "--no-wait")
    terminal.run("quota", "set", "fraud-team", "--replicas", "2", "--cpus", "1.5")
    (row,) = terminal.run("quota", "list").out.splitlines()[1:]
    assert row.split() == ["fraud-team", "1", "1", "of", "2", "1", "of", "1.5", "0"]
    beyond = terminal.run("deployment", "scale", "fraud", "blue", "--instance-count", "2")
    assert (beyond.code, "would use 2 cpus of 1.5" in beyond.err) == (1, True)
    assert terminal.run("quota", "remove", "fraud-team").code == 0


def test_the_audit_log_is_read_and_verified(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC), "--no-wait")
    assert "endpoint_created" in terminal.run("audit", "list").out
    lines = json.loads(terminal.run("audit", "list", "-o", "json").out)["lines"]
    assert [line["subject"] for line in lines] == ["fraud", "fraud/blue"]
    verified = terminal.run("audit", "verify")
    assert (verified.code, verified.out.strip()) == (0, f"2 lines, unbroken; head {lines[-1]['hash']}")
