"""Rollouts in words: the admin API's JSON → text for people. Pure; the time now is an argument."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from router.cli.output import duration, listing, table

Json = Mapping[str, Any]

_BAR_CELLS = 30
_MIN_WIDTH = 40


def overview(rollout: Json, now: datetime, width: int) -> str:
    """Everything that is known of one rollout; sentences are wrapped at `width` characters."""
    blocks = [
        [*_wrapped(_title(rollout, now), width), *_wrapped(state_sentence(rollout, now), width, "  ")],
        _bars(rollout),
        [line for fact in _facts(rollout) for line in _wrapped(fact, width, " " * 10)],
        _evidence(rollout, width),
    ]
    if advice := what_to_do(rollout):
        blocks.append(_wrapped(advice, width))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def state_sentence(rollout: Json, now: datetime) -> str:
    """Where it is and why, in a sentence."""
    holding = f"; it holds: {rollout['holding']}" if rollout["holding"] else ""
    where = _step_words(rollout["step"], len(rollout["steps"]), _current_text(rollout))
    match rollout["phase"]:
        case "pending":
            who = f"{rollout['candidate']} is" if rollout["undoes"] else "both deployments are"
            return f"waits until {who} ready{holding}"
        case "progressing":
            elapsed = f", {duration(_seconds(rollout['step_since'], now))} so far" if where else ""
            return f"{where or 'all steps are done'}{elapsed}{holding}"
        case "paused":
            return f"paused at {where or 'the end'}: {rollout['reason']}"
        case phase:
            return f"{phase.replace('_', ' ')}: {rollout['reason']}{holding}"


def what_to_do(rollout: Json) -> str:
    """The commands that go on from here; empty when it goes on by itself or is over."""
    name = rollout["endpoint"]
    give_up = f"Return to {rollout['stable']}: crossfade rollout abort {name}"
    match rollout["phase"], rollout["pause"]:
        case "paused", "operator":
            return f"Go on: crossfade rollout resume {name}. {give_up}"
        case "paused", "step":
            return f"Go on: crossfade rollout promote {name}. {give_up}"
        case "paused", _:
            return (
                f"It is yours to decide. Keep looking: crossfade rollout resume {name}. "
                f"Go on all the same: crossfade rollout promote {name}. {give_up}"
            )
        case (("promoted" | "retiring"), _):
            return f"Take it back: crossfade rollout undo {name}"
    return ""


def one_line(endpoint: str, rollout: Json) -> str:
    """A rollout that is under way, beside its endpoint: "e: blue → green, step 6 of 14 (weight 5%), 5% on green"."""
    step = _step_words(rollout["step"], rollout["steps"], rollout["step_text"])
    is_moving = rollout["phase"] in ("progressing", "paused")
    where = (
        f"{rollout['phase'].replace('_', ' ')}, {step}" if step and is_moving else rollout["phase"].replace("_", " ")
    )
    mirror = f", {rollout['mirror']}% mirrored" if rollout["mirror"] else ""
    holding = f"; it holds: {rollout['holding']}" if rollout["holding"] else ""
    moved = f"{rollout['stable']} → {rollout['candidate']}"
    return f"{endpoint}: {moved}: {where}, {rollout['weight']}% on {rollout['candidate']}{mirror}{holding}"


def outcome_sentence(rollout: Json) -> str:
    """How it ended."""
    name, stable, candidate = rollout["endpoint"], rollout["stable"], rollout["candidate"]
    match rollout["outcome"]:
        case "promoted" if rollout["weight"] or rollout["phase"] != "succeeded":
            return f"{name}: {candidate} has taken over from {stable}. Take it back: crossfade rollout undo {name}"
        case "promoted":
            return f"{name}: {rollout['reason']}"
        case "rolled_back":
            return f"{name}: rolled back to {stable}: {rollout['reason']}"
        case _:
            return f"{name}: returned to {stable}: {rollout['reason']}"


def verdict_sentence(rollout: Json) -> str:
    """The evidence in a line; empty when there is none yet."""
    verdict = rollout["verdict"]
    return f"{verdict['result']}: {verdict['reason']}" if verdict else ""


def history_table(rollouts: Sequence[Json], now: datetime) -> str:
    columns = ("id", "move", "strategy", "result", "started", "by", "why")
    return table(columns, [_history_row(rollout, now) for rollout in rollouts])


def trail_lines(entries: Iterable[Json]) -> str:
    return "\n".join(entry_line(entry) for entry in entries)


def entry_line(entry: Json) -> str:
    """ "2026-01-02 12:00:03Z ann: paused: paused by ann"."""
    at = datetime.fromisoformat(entry["at"])
    urgent = "URGENT: " if entry["is_urgent"] else ""
    return f"{at:%Y-%m-%d %H:%M:%S}Z {entry['by']}: {urgent}{entry['message']}"


def differences_text(reply: Json) -> str:
    answers, noise = reply["answers"], reply["noise"]
    if not answers["pairs"]:
        return (
            "Nothing was compared yet. Answers are compared while a share of the requests is mirrored: "
            "see the step set_mirror, or the strategies canary and shadow"
        )
    facts = [
        ("compared", f"{answers['pairs']} answers of stable and candidate, {answers['differ']} differ"),
        ("noise", f"{noise['pairs']} answers of stable and stable again, {noise['differ']} differ"),
        ("copies", f"{reply['arrived']} of {reply['mirrored']} sampled requests reached the candidate"),
    ]
    shown = [
        listing(
            [
                ("request", f"{item['request_id']} at {datetime.fromisoformat(item['at']):%Y-%m-%d %H:%M:%S}Z"),
                ("differs", item["reason"]),
                *(("stable", f"{output}: {value}") for output, value in item["stable"].items()),
                *(("candidate", f"{output}: {value}") for output, value in item["candidate"].items()),
            ]
        )
        for item in reply["differences"]
    ]
    return "\n\n".join([listing(facts), *shown])


def _title(rollout: Json, now: datetime) -> str:
    undone = f", undoes {rollout['undoes']}" if rollout["undoes"] else ""
    strategy = "with its own steps" if rollout["strategy"] == "steps" else f"by {rollout['strategy']}"
    began = f"{duration(_seconds(rollout['started_at'], now))} ago by {rollout['started_by']}"
    move = f"{rollout['endpoint']}: {rollout['stable']} → {rollout['candidate']}"
    return f"{move}, {strategy} (rollout {rollout['id']}, started {began}{undone})"


def _bars(rollout: Json) -> list[str]:
    sides = (("stable", rollout["stable"]), ("candidate", rollout["candidate"]))
    names = max(len(name) for _, name in sides)
    lines = []
    for role, name in sides:
        percent = rollout["in_force"]["traffic"].get(name, 0)
        asked = rollout["asked"]["traffic"].get(name, 0)
        replicas = rollout["replicas"][role]
        is_seen = rollout["phase"] != "pending" or rollout["holding"]  # nobody has looked before that
        notes = [f"{replicas['ready']} of {max(1, replicas['wanted'])} replicas ready"] if is_seen else []
        notes += [f"mirror {rollout['mirror']}%"] if role == "candidate" and rollout["mirror"] else []
        notes += [f"asked for {asked}%"] if asked != percent else []
        lines.append(f"  {name.ljust(names)}  {_bar(percent)} {percent:3d}%  {', '.join(notes)}".rstrip())
    return lines


def _bar(percent: int) -> str:
    """A share that is not 0 shows, and one that is not all leaves a gap."""
    cells = round(percent * _BAR_CELLS / 100)
    cells = min(max(cells, 1 if percent else 0), _BAR_CELLS if percent == 100 else _BAR_CELLS - 1)
    return "█" * cells + "░" * (_BAR_CELLS - cells)


def _facts(rollout: Json) -> list[str]:
    facts = [f"steps     {_path(rollout)}"]
    if rollout["exposure_s"] is not None:
        cost = rollout["exposure_s"]
        words = (
            f"as if all the traffic had failed for {cost:.1f} s" if cost >= 0.05 else "no failures beyond stable's own"
        )
        facts.append(f"exposure  {words}")
    return facts


def _path(rollout: Json) -> str:
    """Every change of traffic and every pause; the one it is at in brackets."""
    groups: list[tuple[str, bool]] = []
    for step in rollout["steps"]:
        is_current = step["state"] == "current"
        if "analyze" in step["spec"] and groups:
            text, was_current = groups[-1]
            groups[-1] = (text, was_current or is_current)
        else:
            groups.append((step["text"].removeprefix("weight "), is_current))
    return " › ".join(f"[{text}]" if is_current else text for text, is_current in groups)


def _evidence(rollout: Json, width: int) -> list[str]:
    verdict = rollout["verdict"]
    if verdict is None:
        return ["evidence  none at this step yet"] if rollout["phase"] in ("progressing", "paused") else []
    lines = _wrapped(f"evidence  {verdict['result']}", width, " " * 10)
    names = max((len(row["metric"]) for row in verdict["rows"]), default=0)
    for row in verdict["rows"]:
        sentence = row["sentence"].removeprefix(f"{row['metric']}: ")
        lines.append(f"  {row['metric'].ljust(names)}  {row['result'].ljust(12)}  {_numbers(row)}".rstrip())
        lines += [f"    {line}" for line in _wrapped(sentence, width - 4)]
    if not verdict["rows"] or verdict["result"] == "fail":
        lines += _wrapped(f"  {verdict['reason']}", width, "  ")
    return lines


def _numbers(row: Json) -> str:
    """ "1/200 on the candidate, 12/12,000 on stable"; empty for a metric of the user's own, which has no counts."""
    stable, candidate = row["stable"], row["candidate"]
    if not candidate["requests"]:
        return ""
    counts = [f"{side['hits']:,.0f}/{side['requests']:,.0f}" for side in (candidate, stable)]
    return f"{counts[0]} on the candidate, {counts[1]} on stable"


def _history_row(rollout: Json, now: datetime) -> tuple[Any, ...]:
    return (
        rollout["id"],
        f"{rollout['stable']} → {rollout['candidate']}",
        rollout["strategy"],
        (rollout["outcome"] or rollout["phase"]).replace("_", " "),
        f"{duration(_seconds(rollout['started_at'], now))} ago",
        rollout["started_by"],
        rollout["holding"] or rollout["reason"],
    )


def _step_words(step: int, steps: int, text: str) -> str:
    return f"step {step} of {steps} ({text})" if step <= steps else ""


def _current_text(rollout: Json) -> str:
    return next((step["text"] for step in rollout["steps"] if step["state"] == "current"), "")


def _seconds(since: str, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(since)).total_seconds())


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, max(width, _MIN_WIDTH), subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True
    )
