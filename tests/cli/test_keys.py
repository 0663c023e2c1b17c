"""`crossfade keys` against a real admin API."""

from __future__ import annotations

from pathlib import Path

from router.keys import hashed
from tests.cli.conftest import Terminal

SPEC = "kind: Endpoint\nname: e\nauth_mode: key\n"


def test_a_key_is_printed_once_and_listed_by_its_fingerprint(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC))
    created = terminal.run("keys", "create", "e")
    key = created.out.strip()
    assert (created.code, len(key)) == (0, 47)

    listed = terminal.run("keys", "list", "e", "-o", "json")
    assert [(item["slot"], item["fingerprint"]) for item in listed.json["keys"]] == [("primary", hashed(key)[:12])]
    everything = [terminal.run(*command) for command in (("keys", "list", "e"), ("endpoint", "show", "e"), ("status",))]
    assert not any(key in ran.out + ran.err for ran in everything)


def test_keys_are_regenerated_and_revoked_by_name(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC))
    first = terminal.run("keys", "create", "e").out
    again = terminal.run("keys", "regenerate", "e", "primary")
    assert (again.code, again.out != first) == (0, True)

    revoked = terminal.run("keys", "revoke", "e", "primary")
    assert (revoked.code, revoked.out) == (0, "the primary key of e is revoked\n")
    missing = terminal.run("keys", "revoke", "e", "primary")
    assert (missing.code, "does not exist" in missing.err) == (1, True)


def test_a_change_that_a_proxy_has_not_acknowledged_ends_as_timed_out(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(SPEC))
    terminal.bench.proxies.are_silent = True
    ran = terminal.run("keys", "create", "e")
    assert (ran.code, "not every proxy" in ran.err, len(ran.out.strip())) == (4, True, 47)


def test_invoke_takes_a_key_from_a_file_alone(terminal: Terminal, tmp_path: Path) -> None:
    ran = terminal.run("endpoint", "invoke", "e", "--sample", "--key-file", str(tmp_path / "none"))
    assert (ran.code, "--key-file" in ran.err) == (2, True)
    empty = tmp_path / "empty"
    empty.write_text("\n")
    ran = terminal.run("endpoint", "invoke", "e", "--sample", "--key-file", str(empty))
    assert (ran.code, "holds no key" in ran.err) == (2, True)


def test_a_key_that_nobody_is_asked_for_yet_is_told_to_be_one(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec("kind: Endpoint\nname: open\n"))
    created = terminal.run("keys", "create", "open")
    assert (created.code, len(created.out.strip())) == (0, 47)
    assert "nobody is asked for it yet: open has auth_mode none, set auth_mode: key in its spec" in created.err
