"""How the commands that change something show what was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from router.cli.output import percents, print_json, table
from router.cli.session import Output, Session, report
from router.cli.waiting import wait_for
from router.domain.errors import CrossfadeError

if TYPE_CHECKING:
    from router.client import AdminClient


def conclude(
    session: Session, client: AdminClient, done: dict[str, Any], wait_s: float | None, *, is_traffic_only: bool = False
) -> int:
    """Show the changes, wait unless `wait_s` is None, and return the exit code.

    With JSON the result is one object on stdout, printed when the waiting is over, with the reason when it failed.
    """
    if session.output is Output.TABLE:
        print(table(("action", "kind", "name", "changes"), [_row(change) for change in done["changes"]]))
    if wait_s is None:
        if session.output is Output.JSON:
            print_json(done)
        return 0
    try:
        wait_for(client, done["revisions"], wait_s, is_traffic_only=is_traffic_only)
    except CrossfadeError as error:
        code = report(Session(Output.TABLE, session.admin_url, session.token_file, session.data_dir), error)
        if session.output is Output.JSON:
            print_json(done | {"settled": False, "reason": str(error)})
        return code
    if session.output is Output.JSON:
        print_json(done | {"settled": True, "reason": ""})
    return 0


def _row(change: Mapping[str, Any]) -> tuple[str, str, str, str]:
    is_endpoint = change["kind"] == "endpoint"
    name = change["name"] if is_endpoint else f"{change['endpoint']}/{change['name']}"
    fields = ", ".join(f"{field['key']}: {_value(field['old'])} → {_value(field['new'])}" for field in change["fields"])
    return change["action"], change["kind"], name, fields


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return percents(value)
    text = "-" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # a sha256 is told by its beginning
