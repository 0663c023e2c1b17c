"""The command line against a real admin API: results, words, exit codes."""

from __future__ import annotations

import jsonschema
import pytest

from router.domain.routing import TritonAddress
from router.domain.triton_report import TritonAnswer, TritonCounts, TritonReport
from tests.cli.conftest import Terminal
from tests.fakes import TOKEN

SPEC = """\
kind: Endpoint
name: e
traffic: {blue: 100}
---
kind: Deployment
name: blue
endpoint: e
model: file:/blue.onnx
---
kind: Deployment
name: green
endpoint: e
model: file:/green.onnx
"""

TRITON = """\
kind: Endpoint
name: t
---
kind: Deployment
name: blue
endpoint: t
backend: triton
triton: {servers: [{host: 10.0.0.7}], model: fraud}
"""


def applied(terminal: Terminal) -> Terminal:
    assert terminal.run("apply", "-f", terminal.spec(SPEC)).code == 0
    return terminal


def test_apply_creates_then_waits_and_a_second_time_changes_nothing(terminal: Terminal) -> None:
    first = terminal.run("apply", "-f", terminal.spec(SPEC))
    assert first.code == 0
    assert first.out.splitlines() == [
        "ACTION   KIND        NAME     CHANGES",
        "created  endpoint    e        -",
        "created  deployment  e/blue   -",
        "created  deployment  e/green  -",
    ]
    assert first.err == "endpoint e: revision 1 is in force\n"
    second = terminal.run("apply", "-f", terminal.spec(SPEC), "-o", "json")
    assert {change["action"] for change in second.json["changes"]} == {"unchanged"}
    assert second.json["settled"] is True


def test_apply_dry_run_prints_the_difference_and_changes_nothing(terminal: Terminal) -> None:
    applied(terminal)
    changed = terminal.spec(SPEC.replace("blue: 100", "blue: 90, green: 10") + "instance_count: 2\n", "changed.yaml")
    dry = terminal.run("apply", "-f", changed, "--dry-run")
    assert dry.code == 0
    assert "changed    endpoint    e        traffic: blue=100 → blue=90 green=10" in dry.out
    assert "changed    deployment  e/green  instance_count: 1 → 2" in dry.out
    assert terminal.bench.desired.state("e").revision == 1


def test_apply_reads_several_files_and_stdin(terminal: Terminal) -> None:
    endpoint, blue, green = SPEC.split("---\n")
    one, two = terminal.spec(endpoint, "1.yaml"), terminal.spec(blue, "2.yaml")
    assert terminal.run("apply", "-f", one, "-f", two, "-f", "-", stdin=green).code == 0
    assert sorted(terminal.bench.desired.state("e").deployments) == ["blue", "green"]


def test_a_key_that_a_spec_leaves_out_is_left_out_on_the_way_too(terminal: Terminal) -> None:
    applied(terminal)
    terminal.run("endpoint", "update", "e", "--traffic", "green=100")
    terminal.run("deployment", "scale", "e", "green", "--instance-count", "4")
    assert terminal.run("apply", "-f", terminal.spec(SPEC.replace("traffic: {blue: 100}\n", ""))).code == 0
    state = terminal.bench.desired.state("e")
    assert state.endpoint.traffic.as_dict() == {"green": 100}
    assert state.deployments["green"].spec.instance_count == 4


def test_a_wrong_spec_exits_2_with_every_place_before_anything_is_sent(terminal: Terminal) -> None:
    path = terminal.spec("kind: Endpoint\nname: e\ntrafic: {blue: 100}\nauth_mode: basic\n")
    ran = terminal.run("apply", "-f", path)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.splitlines() == [
        f"error: {path}:3:1: trafic: is not a key here (did you mean 'traffic'?)",
        f"error: {path}:4:12: auth_mode: must be one of none, key, mtls, jwt, not the text 'basic'",
    ]
    as_json = terminal.run("apply", "-f", path, "-o", "json")
    assert [(item["line"], item["key"]) for item in as_json.json["error"]["problems"]] == [
        (3, "trafic"),
        (4, "auth_mode"),
    ]


def test_what_the_control_plane_refuses_is_told_with_file_and_line(terminal: Terminal) -> None:
    terminal.bench.models.missing = {"file:/green.onnx"}
    path = terminal.spec(SPEC.replace("{blue: 100}", "{blu: 100}"))
    ran = terminal.run("apply", "-f", path)
    assert ran.code == 2
    assert ran.err.splitlines() == [
        f"error: {path}:3:11: traffic.blu: endpoint 'e' has no deployment 'blu' (did you mean 'blue'?)",
        f"error: {path}:13:1: model: file:/green.onnx: there is no such file",
    ]


def test_a_spec_file_that_is_not_there_exits_2(terminal: Terminal) -> None:
    ran = terminal.run("apply", "-f", "/nowhere/s.yaml")
    assert ran.code == 2
    assert "/nowhere/s.yaml: No such file or directory" in ran.err


def test_waiting_in_vain_exits_4_and_says_what_is_missing(terminal: Terminal) -> None:
    applied(terminal)
    terminal.bench.reconciler.held.add("e")
    ran = terminal.run("endpoint", "update", "e", "--traffic", "green=100", "--timeout", "0.05")
    assert ran.code == 4
    assert "not in force after 0.05 s: blue: 0 of 1 replicas ready" in ran.err
    assert terminal.run("endpoint", "update", "e", "--traffic", "blue=100", "--no-wait").code == 0


def test_a_deployment_that_fails_ends_the_waiting_with_1_and_the_reason(terminal: Terminal) -> None:
    terminal.bench.reconciler.failures["green"] = "the model does not load"
    ran = terminal.run("apply", "-f", terminal.spec(SPEC), "-o", "json")
    assert ran.code == 1
    assert ran.json["settled"] is False
    assert "deployment 'green' failed: the model does not load" in ran.err
    assert ran.json["reason"] in ran.err


def test_moving_away_from_a_broken_deployment_is_no_failure(terminal: Terminal) -> None:
    applied(terminal)
    terminal.run("endpoint", "update", "e", "--traffic", "blue=90 green=10")
    terminal.bench.reconciler.failures["green"] = "out of memory"
    ran = terminal.run("endpoint", "update", "e", "--traffic", "blue=100")
    assert ran.code == 0
    assert "is in force" in ran.err


def test_endpoints_are_listed_and_shown(terminal: Terminal) -> None:
    assert "There is no endpoint yet" in terminal.run("endpoint", "list").out
    applied(terminal)
    listed = terminal.run("endpoint", "list").out.splitlines()
    assert listed[0].split() == ["NAME", "STATE", "TRAFFIC", "IN", "FORCE", "MIRROR", "DEPLOYMENTS", "REVISION"]
    assert listed[1].split() == ["e", "ready", "blue=100", "blue=100", "-", "blue", "green", "1"]
    shown = terminal.run("endpoint", "show", "e").out
    assert "traffic:    blue=100 (in force: blue=100)" in shown
    assert terminal.run("endpoint", "show", "e", "-o", "json").json["deployments"][0]["name"] == "blue"


def test_traffic_and_mirror_are_updated(terminal: Terminal) -> None:
    applied(terminal)
    ran = terminal.run("endpoint", "update", "e", "--mirror-traffic", "green=10")
    assert "mirror_traffic: - → green=10" in ran.out
    terminal.run("endpoint", "update", "e", "--traffic", "blue=90 green=10", "--mirror-traffic", "")
    state = terminal.bench.desired.state("e").endpoint
    assert state.traffic.as_dict() == {"blue": 90, "green": 10}
    assert state.mirror is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--traffic", "blue=60 green=30"], "error: traffic: the percents sum to 90"),
        (["--traffic", "blue:100"], "'blue:100' is not NAME=PERCENT"),
        (["--traffic", "blue=50 blue=50"], "'blue' is named twice"),
        (["--traffic", "red=100"], "error: traffic.red: endpoint 'e' has no deployment 'red'"),
        (["--mirror-traffic", "blue=5"], "'blue' already has live traffic"),
        ([], "there is nothing to change"),
        (["--trafic", "blue=100"], "No such option"),
    ],
)
def test_a_wrong_update_exits_2_and_says_why(terminal: Terminal, options: list[str], words: str) -> None:
    applied(terminal)
    ran = terminal.run("endpoint", "update", "e", *options)
    assert ran.code == 2
    assert words in ran.err
    assert terminal.bench.desired.state("e").revision == 1


def test_a_change_against_an_old_revision_exits_1(terminal: Terminal) -> None:
    applied(terminal)
    update = ["endpoint", "update", "e", "--traffic", "green=100", "--if-revision", "1"]
    assert terminal.run(*update).code == 0
    ran = terminal.run(*update, "-o", "json")
    assert ran.code == 1
    assert "is at revision 2, not 1" in ran.err
    assert ran.json["error"]["code"] == "revision_conflict"
    assert ran.json["error"]["current"]["traffic"] == {"green": 100}


def test_deployments_are_listed_shown_scaled_and_deleted(terminal: Terminal) -> None:
    applied(terminal)
    listed = terminal.run("deployment", "list", "--endpoint", "e").out.splitlines()
    assert [line.split()[:5] for line in listed[1:]] == [
        ["e", "blue", "ready", "1/1", "100%"],
        ["e", "green", "ready", "1/1", "0%"],
    ]
    assert len(terminal.run("deployment", "list", "-o", "json").json["deployments"]) == 2
    assert terminal.run("deployment", "scale", "e", "green", "--instance-count", "2").code == 0
    assert "replicas:          2 ready of 2" in terminal.run("deployment", "show", "e", "green").out
    refused = terminal.run("deployment", "delete", "e", "blue")
    assert refused.code == 1
    assert "has 100% of the traffic: move it away first" in refused.err
    assert terminal.run("deployment", "delete", "e", "green").code == 0
    assert list(terminal.bench.desired.state("e").deployments) == ["blue"]


def test_what_tritons_count_is_shown_with_their_deployment_and_at_a_glance(terminal: Terminal) -> None:
    terminal.run("apply", "-f", terminal.spec(TRITON))
    address, counts = TritonAddress("10.0.0.7", 8000, 8001), TritonCounts(200, 3, 50, queue_s=0.1, infer_s=0.5)
    terminal.bench.tritons.reports = (TritonReport("t", "blue", address, TritonAnswer("2.51.0", counts)),)

    (line,) = [it for it in terminal.run("deployment", "show", "t", "blue").out.splitlines() if "10.0.0.7:8000: " in it]
    assert line.endswith(
        "Triton 2.51.0: 200 answered, 3 failed, 50 batches; a request waits 0.50 ms and computes 2.50 ms"
    )
    assert "t/blue at 10.0.0.7:8000: 2.51.0, 200 answered, 3 failed" in terminal.run("status").out
    shown = terminal.run("deployment", "show", "t", "blue", "-o", "json").json
    assert shown["tritons"][0]["compute_infer_s"] == 0.5


def test_a_deployment_that_scales_by_itself_shows_its_limits(terminal: Terminal) -> None:
    scaled = "kind: Endpoint\nname: s\n---\nkind: Deployment\nname: blue\nendpoint: s\nmodel: file:/m.onnx\n"
    spec = terminal.spec(f"{scaled}scale_settings: {{min_instances: 2, max_instances: 9}}\n")
    assert terminal.run("apply", "-f", spec).code == 0

    assert "max_instances=9 min_instances=2" in terminal.run("deployment", "show", "s", "blue").out
    assert "2/2 (2 to 9)" in terminal.run("deployment", "list").out
    refused = terminal.run("deployment", "scale", "s", "blue", "--instance-count", "3")
    assert refused.code == 1
    assert "scales by itself, from 2 to 9 replicas: change its scale_settings" in refused.err


def test_logs_are_printed_as_they_are(terminal: Terminal) -> None:
    applied(terminal)
    assert terminal.run("deployment", "logs", "e", "blue", "-n", "2").out == "e/blue line 8\ne/blue line 9\n"


def test_an_endpoint_is_deleted(terminal: Terminal) -> None:
    applied(terminal)
    assert terminal.run("endpoint", "delete", "e").code == 1
    ran = terminal.run("endpoint", "delete", "e", "--force")
    assert ran.code == 0
    assert ran.err == "endpoint e is gone\n"
    assert terminal.bench.desired.states == {}


def test_what_is_not_there_exits_1_with_a_suggestion(terminal: Terminal) -> None:
    applied(terminal)
    ran = terminal.run("endpoint", "show", "ee")
    assert ran.code == 1
    assert ran.err == "error: endpoint 'ee' does not exist\nhint: did you mean 'e'?\n"


def test_status_shows_the_gateway(terminal: Terminal) -> None:
    applied(terminal)
    shown = terminal.run("status").out
    assert "ray:        connected (127.0.0.1:6379)" in shown
    assert "proxy:      envoy-1: up to date" in shown
    assert terminal.run("status", "-o", "json").json["version"] == "0.1.0"


@pytest.mark.parametrize(
    "noun", ["", "endpoint", "deployment", "rollout", "model", "gateway", "keys", "tls", "token", "quota", "audit"]
)
def test_every_command_says_in_one_line_of_a_usual_terminal_what_it_does(terminal: Terminal, noun: str) -> None:
    terminal.env.update(TERMINAL_WIDTH="80", COLUMNS="80")
    ran = terminal.run(*noun.split(), "--help")
    commands = ran.out.partition("Commands:\n")[2].splitlines()
    assert ran.code == 0
    assert commands
    assert [line for line in commands if not line.endswith(".")] + [line for line in commands if "..." in line] == []


def test_the_schema_is_printed_without_a_gateway(terminal: Terminal) -> None:
    terminal.url = "http://127.0.0.1:1"
    schema = terminal.run("schema").json
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("arguments", [["status"], ["endpoint", "list"], ["deployment", "delete", "e", "blue"]])
def test_an_unreachable_control_plane_exits_5_and_says_what_to_do(terminal: Terminal, arguments: list[str]) -> None:
    terminal.url = "http://127.0.0.1:1"
    ran = terminal.run(*arguments, "-o", "json")
    assert ran.code == 5
    assert "Is `crossfade up` running?" in ran.err
    assert ran.json["error"]["code"] == "unreachable"


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1:1", "http://[::1", "http://127.0.0.1:99999"])
def test_an_admin_url_that_is_none_exits_5(terminal: Terminal, url: str) -> None:
    ran = terminal.run("status", "--admin-url", url)
    assert ran.code == 5
    assert ran.err.startswith("error: ")


def test_a_missing_token_exits_5_and_a_wrong_one_1(terminal: Terminal) -> None:
    missing = terminal.run("status", "--token-file", "/nowhere/token")
    assert missing.code == 5
    assert "no admin token: /nowhere/token" in missing.err
    terminal.env = {"CROSSFADE_TOKEN": "wrong"}
    wrong = terminal.run("status")
    assert wrong.code == 1
    assert "needs a valid admin token" in wrong.err


def test_a_token_file_wins_over_the_environment_and_that_over_the_data_directory(terminal: Terminal) -> None:
    (terminal.data_dir / "other.token").write_text(TOKEN)
    terminal.env = {"CROSSFADE_TOKEN": "wrong"}
    assert terminal.run("status", "--token-file", str(terminal.data_dir / "other.token")).code == 0
    (terminal.data_dir / "admin.token").write_text("wrong")
    terminal.env = {"CROSSFADE_TOKEN": TOKEN}
    assert terminal.run("status").code == 0


def test_a_proxy_in_the_environment_does_not_come_between_a_machine_and_itself(terminal: Terminal) -> None:
    terminal.env = {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
    assert terminal.run("status").code == 0


def test_every_command_teaches_with_an_example_and_takes_an_output(terminal: Terminal) -> None:
    nouns = {"endpoint": ["list", "show", "update", "delete", "invoke"]}
    nouns["deployment"] = ["list", "show", "scale", "delete", "logs"]
    commands = [["apply"], ["status"], ["doctor"], ["schema"]]
    commands += [[noun, verb] for noun, verbs in nouns.items() for verb in verbs]
    for command in commands:
        ran = terminal.run(*command, "--help")
        assert ran.code == 0
        assert f"\n    crossfade {' '.join(command)}" in ran.out, command
        assert "--output" in ran.out
