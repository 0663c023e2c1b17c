"""How the commands that change something show what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from router.cli.output import percents, print_json, say, table
from router.cli.session import Output, Session, TimedOut, report
from router.cli.waiting import wait_for
from router.domain.errors import CrossfadeError

if TYPE_CHECKING:
    from router.client import AdminClient


def conclude(
    session: Session,
    client: AdminClient,
    done: dict[str, Any],
    wait_s: float | None,
    *,
    is_traffic_only: bool = False,
    then: Callable[[], list[dict[str, Any]]] | None = None,
) -> int:
    """Show the changes, wait unless `wait_s` is None, and return the exit code.

    With JSON the result is one object on stdout, printed when the waiting is over, with the reason when it failed.
    `then` makes the changes that wait for the others to be in force, and returns what became of them.
    """
    if session.output is Output.TABLE:
        print(table(("action", "kind", "name", "changes"), [_row(change) for change in done["changes"]]))
    for note in done["notes"]:
        say(f"note: {note}")
    has_more = any(change["action"] == "waiting" for change in done["changes"])
    if wait_s is None:
        if has_more:
            say("a rollout waits for the rest to be in force: apply the same again to start it")
        _say_what_started(done)
        if session.output is Output.JSON:
            print_json(done)
        return 0
    try:
        wait_for(client, done["revisions"], wait_s, is_traffic_only=is_traffic_only)
        if has_more and then:
            done = done | {"changes": _with_the_rest(done["changes"], then())}
        _say_what_started(done)
    except CrossfadeError as error:
        code = report(replace(session, output=Output.TABLE), error)
        if session.output is Output.JSON:
            print_json(done | {"settled": False, "reason": str(error)})
        return code
    if session.output is Output.JSON:
        print_json(done | {"settled": True, "reason": ""})
    return 0


def _say_what_started(done: Mapping[str, Any]) -> None:
    for change in done["changes"]:
        if change["kind"] == "rollout" and change["action"] == "created" and not done["dry_run"]:
            say(f"rollout {_row(change)[2]} has started: crossfade rollout watch {change['endpoint']}")


def _with_the_rest(changes: list[dict[str, Any]], later: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The changes, with what became of those that waited. Raises `TimedOut` when one still does."""
    for change in later:
        if change["action"] == "waiting":
            raise TimedOut(f"endpoint {change['endpoint']} was in force and is no more: apply the same again")
    return [change for change in changes if change["action"] != "waiting"] + later


def _row(change: Mapping[str, Any]) -> tuple[str, str, str, str]:
    match change["kind"]:
        case "endpoint":
            name = change["name"]
        case "rollout":
            name = f"{change['endpoint']} → {change['name']}"
        case _:
            name = f"{change['endpoint']}/{change['name']}"
    fields = ", ".join(f"{field['key']}: {_value(field['old'])} → {_value(field['new'])}" for field in change["fields"])
    return change["action"], change["kind"], name, fields


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return percents(value)
    text = "-" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # a sha256 is told by its beginning
