"""`crossfade rollout …` against a real admin API: what is shown, what is said, how it exits."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from router.cli.rollout_watching import Lines, follow
from router.client import AdminClient
from router.client_errors import Unreachable
from router.domain.rollout import Replicas, ReplicasObserved
from tests.cli.conftest import Terminal
from tests.cli.test_commands import SPEC, applied
from tests.fake_rollouts import FAIL, MINUTE, PASS, UNSURE
from tests.fakes import TOKEN

ROLLOUT = "---\nkind: Rollout\nendpoint: e\nto: green\nstrategy: all_at_once\n"


def begun(terminal: Terminal, *options: str) -> Terminal:
    ran = applied(terminal).run("rollout", "start", "e", "--to", "green", *options)
    assert ran.code == 0, ran.err
    return terminal


def test_start_shows_what_began(terminal: Terminal) -> None:
    ran = applied(terminal).run("rollout", "start", "e", "--to", "green")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("e: blue → green, by canary (rollout r1, started ")
    assert lines[1].startswith("step 2 of 14 (analyze, 60 s or more), ")
    assert lines[3:5] == [
        f"  blue   {'█' * 30} 100%  1 of 1 replicas ready",
        f"  green  {'░' * 30}   0%  1 of 1 replicas ready, mirror 10%",
    ]
    assert lines[6] == "steps     [mirror 10%] › 1% › 5% › 10% › 25% › 50% › 100%"
    assert lines[8] == "evidence  none at this step yet"


def test_status_tells_the_evidence_as_numbers_and_in_a_sentence(terminal: Terminal) -> None:
    begun(terminal, "--strategy", "all_at_once").bench.rollouts.happen("e", UNSURE)
    out = terminal.run("rollout", "status", "e").out
    assert "evidence  inconclusive\n" in out
    assert "\n  errors  inconclusive  1/200 on the candidate, 12/12,000 on stable\n" in out
    assert "\n    0.5% of 200 candidate requests failed, against stable's 0.1%; needs about 420 more" in out
    assert "about 420 more candidate requests" in " ".join(out.split())
    assert "exposure  as if all the traffic had failed for 0.2 s" in out
    view = terminal.run("rollout", "status", "e", "-o", "json").json
    assert (view["phase"], view["verdict"]["rows"][0]["metric"]) == ("progressing", "errors")


def test_options_and_steps_become_the_rollout_s_spec(terminal: Terminal) -> None:
    steps = terminal.spec(
        "- set_weight: 10\n- analyze: {bake: 5s}\n- pause: until_promoted\n- set_weight: 100\n", "st.yaml"
    )
    begun(
        terminal,
        "--steps",
        steps,
        *("--alpha", "0.05", "--error-margin", "0.02", "--latency-margin", "0.5", "--max-wait", "10m"),
        *("--keep-old", "2h", "--no-shield"),
    )
    spec = terminal.run("rollout", "status", "e", "-o", "json").json["spec"]
    assert spec["steps"][1:3] == [
        {"analyze": {"bake": "5s", "min_requests": 50, "min_pairs": 0}},
        {"pause": "until_promoted"},
    ]
    assert (spec["shield"], spec["keep_old"]) == (False, "2h")
    assert {key: spec["analysis"][key] for key in ("alpha", "error_margin", "latency_margin", "max_wait")} == {
        "alpha": 0.05,
        "error_margin": 0.02,
        "latency_margin": 0.5,
        "max_wait": "10m",
    }
    assert "with its own steps" in terminal.run("rollout", "status", "e").out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- set_wieght: 10\n", ":1:3: steps[0].set_wieght: is not a step (did you mean 'set_weight'?)"),
        ("steps:\n- pause: 3\n", ":2:10: steps[0].pause: must be until_promoted or a duration"),
        ("stepps: []\n", ":1:1: a file of steps is a list, or has the key 'steps' alone"),
        ("[]\n", ":1:1: steps: there are none"),
        ("", "holds 0 documents"),
        ("- [\n", "is not valid YAML"),
    ],
)
def test_a_wrong_file_of_steps_exits_2_with_the_place(terminal: Terminal, text: str, problem: str) -> None:
    path = applied(terminal).spec(text, "steps.yaml")
    ran = terminal.run("rollout", "start", "e", "--to", "green", "--steps", path)
    assert ran.code == 2
    assert problem in ran.err
    assert terminal.bench.rollouts.history("e") == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "gren"), "did you mean 'green'?"),
        (("--to", "green", "--strategy", "canry"), "did you mean 'canary'?"),
        (("--to", "green", "--strategy", "canary", "--steps", "x.yaml"), "--steps: stands beside --strategy"),
        (("--to", "green", "--steps", "/nowhere/x.yaml"), "--steps: /nowhere/x.yaml: No such file"),
        (("--to", "green", "--keep-old", "60"), "keep_old: must be a duration"),
        (("--to", "green", "--alpha", "3"), "analysis.alpha: 3.0 is out of range"),
    ],
)
def test_a_start_that_cannot_be_says_what_to_write(terminal: Terminal, options: tuple[str, ...], words: str) -> None:
    ran = applied(terminal).run("rollout", "start", "e", *options)
    assert ran.code in (1, 2)
    assert words in ran.err


def test_pause_resume_promote_abort_and_undo_show_what_it_is_then(terminal: Terminal) -> None:
    begun(terminal, "--strategy", "linear")
    paused = terminal.run("rollout", "pause", "e").out
    assert "paused at step 2 of 20 (analyze, 60 s or more): paused by " in paused
    assert "Go on: crossfade rollout resume e. Return to blue: crossfade rollout abort e" in paused
    assert "step 2 of 20" in terminal.run("rollout", "resume", "e").out
    assert "step 4 of 20" in terminal.run("rollout", "promote", "e").out
    promoted = terminal.run("rollout", "promote", "e", "--full").out
    assert "promoted: green has all the traffic; blue is kept for 600 s" in promoted
    assert "Take it back: crossfade rollout undo e" in promoted
    assert "e: green → blue, by undo (rollout r2" in terminal.run("rollout", "undo", "e").out
    begun(terminal)
    aborted = terminal.run("rollout", "abort", "e", "--reason", "odd labels").out
    assert "aborted: aborted by " in aborted
    assert ": odd labels" in aborted
    again = terminal.run("rollout", "abort", "e")
    assert (again.code, again.err) == (1, "error: a rollout that is aborted cannot be aborted\n")


def test_history_lists_rollouts_and_with_trail_everything_that_happened(terminal: Terminal) -> None:
    nothing = applied(terminal).run("rollout", "history", "e")
    assert nothing.out == ("Endpoint e has had no rollout yet. Begin one: crossfade rollout start e --to DEPLOYMENT\n")
    begun(terminal, "--strategy", "all_at_once").run("rollout", "abort", "e", "--reason", "odd labels")
    header, row = terminal.run("rollout", "history", "e").out.splitlines()
    assert header.split() == ["ID", "MOVE", "STRATEGY", "RESULT", "STARTED", "BY", "WHY"]
    assert row.startswith("r1  blue → green  all_at_once  aborted  ")
    assert row.endswith(": odd labels")
    trail = terminal.run("rollout", "history", "e", "--trail").out.splitlines()
    assert trail[0].startswith("2026-01-02 12:00:00Z ")
    assert "crossfade: traffic green=100 → blue=100; aborted: aborted by" in trail[-1]
    assert len(terminal.run("rollout", "history", "e", "--trail", "-o", "json").json["entries"]) == len(trail)
    assert len(terminal.run("rollout", "history", "e", "-o", "json").json["rollouts"]) == 1


def test_diff_shows_what_differs_and_how_much_was_compared(terminal: Terminal) -> None:
    out = applied(terminal).run("rollout", "diff", "e", "--limit", "1").out
    assert out.splitlines() == [
        "compared:  100 answers of stable and candidate, 2 differ",
        "noise:     50 answers of stable and stable again, 0 differ",
        "copies:    100 of 105 sampled requests reached the candidate",
        "",
        "request:    request-2 at 2026-01-02 12:00:00Z",
        "differs:    top class 3 → 7",
        "stable:     scores: top class 3 (0.91)",
        "candidate:  scores: top class 7 (0.91)",
    ]
    assert len(terminal.run("rollout", "diff", "e", "-o", "json").json["differences"]) == 2


def test_endpoints_and_status_show_a_rollout_that_is_under_way_in_a_line(terminal: Terminal) -> None:
    begun(terminal)
    line = "e: blue → green: progressing, step 2 of 14 (analyze, 60 s or more), 0% on green, 10% mirrored"
    for command in (("endpoint", "list"), ("endpoint", "show", "e"), ("status",)):
        assert line in terminal.run(*command).out
    terminal.run("rollout", "abort", "e")
    assert "blue → green" not in terminal.run("status").out


def test_traffic_is_not_changed_by_hand_during_a_rollout_unless_forced(terminal: Terminal) -> None:
    paused = terminal.spec("- pause: until_promoted\n- set_weight: 100\n", "steps.yaml")
    begun(terminal, "--steps", paused)
    change = ("endpoint", "update", "e", "--traffic", "blue=50 green=50")
    refused = terminal.run(*change)
    assert refused.code == 1
    assert "crossfade rollout abort e" in refused.err
    assert terminal.run(*change, "--force").code == 0
    assert terminal.run("rollout", "status", "e", "-o", "json").json["outcome"] == "aborted"
    terminal.run("endpoint", "update", "e", "--traffic", "blue=100")
    begun(terminal, "--steps", paused)
    assert terminal.run("deployment", "delete", "e", "green", "--force").code == 0
    begun(terminal, "--steps", paused)
    changed = terminal.spec(SPEC + "resources: {cpu: 2}\n", "changed.yaml")
    assert terminal.run("apply", "-f", changed).code == 1
    assert terminal.run("apply", "-f", changed, "--force").code == 0


# --- looking on ---------------------------------------------------------------------------------------------------


def test_waiting_for_a_rollout_that_succeeds_exits_0_with_a_line_for_every_change(terminal: Terminal) -> None:
    applied(terminal).bench.rollouts.script = [UNSURE, PASS, MINUTE]
    ran = terminal.run("rollout", "start", "e", "--to", "green", "--strategy", "all_at_once", "--wait")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert "started: blue → green" in lines[0]
    assert any("traffic blue=100 → green=100" in line for line in lines)
    assert any(line.startswith("  evidence at step 2: inconclusive: errors: 0.5% of 200") for line in lines)
    assert any(line.startswith("  evidence at step 2: pass: the candidate is as good as stable") for line in lines)
    assert "promoted: green has all the traffic" in lines[-2]
    assert ran.err == "e: green has taken over from blue. Take it back: crossfade rollout undo e\n"


def test_a_rollout_that_is_rolled_back_exits_3_and_says_why(terminal: Terminal) -> None:
    begun(terminal, "--strategy", "all_at_once").bench.rollouts.script = [UNSURE, FAIL]
    ran = terminal.run("rollout", "watch", "e")
    assert ran.code == 3
    assert ran.err == "e: rolled back to blue: 20 of the candidate's last 20 requests failed\n"
    # What is over already is told in the same way.
    again = terminal.run("rollout", "watch", "e")
    assert (again.code, again.err) == (3, ran.err)


def test_waiting_as_json_prints_the_end_alone_and_watching_every_change_in_a_line(terminal: Terminal) -> None:
    applied(terminal).bench.rollouts.script = [UNSURE, FAIL]
    waited = terminal.run("rollout", "start", "e", "--to", "green", "--strategy", "all_at_once", "--wait", "-o", "json")
    assert (waited.code, waited.json["outcome"]) == (3, "rolled_back")
    begun(terminal, "--strategy", "all_at_once").bench.rollouts.script = [UNSURE, PASS, MINUTE]
    watched = terminal.run("rollout", "watch", "e", "-o", "json")
    views = [json.loads(line) for line in watched.out.splitlines()]
    assert (watched.code, views[0]["outcome"], views[-1]["outcome"]) == (0, "", "promoted")
    assert len({view["version"] for view in views}) == len(views) == 4


def test_waiting_in_vain_exits_4_and_says_that_it_goes_on(terminal: Terminal) -> None:
    begun(terminal)
    ran = terminal.run("rollout", "watch", "e", "--timeout", "0.05")
    assert ran.code == 4
    assert "not decided after 0.05 s: step 2 of 14" in ran.err
    assert "It goes on by itself: see `crossfade rollout status e`" in ran.err


def test_a_pause_that_only_a_person_can_end_is_said_while_waiting(terminal: Terminal) -> None:
    begun(terminal, "--strategy", "all_at_once", "--max-wait", "1m").bench.rollouts.script = [UNSURE, MINUTE]
    ran = terminal.run("rollout", "watch", "e", "--timeout", "0.5")
    assert ran.code == 4
    assert "It is yours to decide. Keep looking: crossfade rollout resume e." in ran.out


def test_a_rollout_that_another_one_follows_is_told_to_its_end(terminal: Terminal) -> None:
    rollouts = begun(terminal, "--strategy", "all_at_once").bench.rollouts
    rollouts.happen("e", PASS, MINUTE)
    terminal.run("rollout", "undo", "e")
    ran = terminal.run("rollout", "watch", "e")
    assert ran.code == 0
    assert "e: blue has taken over from green" in ran.err


def test_a_rollout_that_holds_says_what_for(terminal: Terminal) -> None:
    rollouts = begun(terminal).bench.rollouts
    rollouts.held.add("e")
    rollouts.happen("e", ReplicasObserved(Replicas(1, 2), Replicas(1, 1)), PASS, MINUTE)
    out = terminal.run("rollout", "status", "e").out
    assert "it holds: blue has 1 of 2 replicas ready" in out
    assert "it holds: blue has 1 of 2 replicas ready" in terminal.run("status").out


def test_no_control_plane_exits_5(terminal: Terminal) -> None:
    ran = terminal.run("rollout", "status", "e", "--admin-url", "http://127.0.0.1:1")
    assert ran.code == 5


def test_a_control_plane_that_starts_again_is_waited_for(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(terminal, "--strategy", "all_at_once").bench.rollouts.script = [PASS, MINUTE]

    class Restarting(AdminClient):
        away = 2

        def rollout_changed(self, endpoint: str, seen: str, timeout_s: float) -> dict[str, Any]:
            if self.away:
                self.away -= 1
                raise Unreachable("connection refused")
            return super().rollout_changed(endpoint, seen, timeout_s)

    out = io.StringIO()
    with Restarting(terminal.url, TOKEN) as client:
        ended = follow(client, client.rollout("e"), Lines(client, out), timeout_s=None)
    assert ended["outcome"] == "promoted"
    assert "promoted: green has all the traffic" in out.getvalue()
    assert capsys.readouterr().err == "the control plane does not answer; the rollout waits for it, and so do we\n"


# --- specs --------------------------------------------------------------------------------------------------------


def test_apply_starts_the_rollout_of_a_file_once(terminal: Terminal) -> None:
    path = terminal.spec(SPEC + ROLLOUT)
    dry = terminal.run("apply", "-f", path, "--dry-run")
    assert dry.out.splitlines()[-1] == "created  rollout     e → green  -"
    assert "has started" not in dry.err
    assert terminal.bench.desired.states == {}
    ran = terminal.run("apply", "-f", path)
    assert ran.out.splitlines()[-1] == "created  rollout     e → green  -"
    assert ran.err.splitlines()[-1] == "rollout e → green has started: crossfade rollout watch e"
    again = terminal.run("apply", "-f", path, "-o", "json")
    assert {change["action"] for change in again.json["changes"]} == {"unchanged"}
    assert "note: traffic of endpoint 'e' is left to its rollout, and stays as it is\n" in again.err


def test_apply_waits_for_the_rest_before_it_starts_the_rollout(terminal: Terminal) -> None:
    path = terminal.spec(SPEC + ROLLOUT)
    terminal.bench.reconciler.held.add("e")
    ran = terminal.run("apply", "-f", path, "--no-wait")
    assert ran.out.splitlines()[-1] == "waiting  rollout     e → green  -"
    assert "a rollout waits for the rest to be in force: apply the same again to start it" in ran.err
    late = terminal.run("apply", "-f", path, "--timeout", "0.05")
    assert late.code == 4
    assert terminal.bench.rollouts.history("e") == ()
    terminal.bench.reconciler.comes_into_force_later("e")
    assert terminal.run("apply", "-f", path).err.splitlines()[-1] == (
        "rollout e → green has started: crossfade rollout watch e"
    )


def test_a_rollout_that_cannot_start_is_told_with_file_and_line(terminal: Terminal) -> None:
    path = terminal.spec(SPEC + ROLLOUT.replace("green", "gren"))
    ran = terminal.run("apply", "-f", path)
    assert ran.code == 2
    assert ran.err == f"error: {path}:17:1: to: endpoint 'e' has no deployment 'gren' (did you mean 'green'?)\n"
