"""`crossfade model accept`, and how watched references are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from router.cli.output import duration, say
from router.cli.session import Session, command

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint.", show_default=False)]
SignatureChange = Annotated[
    bool,
    typer.Option("--allow-signature-change", help="Also when it takes or gives something else than what answers now."),
]


def register(app: typer.Typer) -> None:
    command(app, "accept", accept)


def accept(session: Session, endpoint: Endpoint, allow_signature_change: SignatureChange = False) -> None:
    """Roll out what an endpoint's watched reference names now.

    At once, also outside its window, and also when it was rolled back, aborted or refused before. It is fetched and
    checked first where that has not happened.

    \b
      crossfade model accept fraud
      crossfade rollout watch fraud
    """
    with session.client() as client:
        reply = client.accept_model(endpoint, may_change_signature=allow_signature_change)
    session.show(reply, lambda: watch_line(reply))
    say(f"follow it with: crossfade rollout watch {endpoint}")


def watch_line(watch: Mapping[str, Any]) -> str:
    """How it is with a watched reference, in one line."""
    words = f"{watch['ref']} ({watch['policy']}): {_standing(watch)}"
    if watch["waits_for"]:
        words += f", {watch['waits_for']}"
    if watch["trouble"]:
        words += f"; {_times(watch['failures'])} in a row: {watch['trouble']}"
    return f"{words}; {_freshness(watch['staleness_s'])}"


def watches_text(watches: list[dict[str, Any]]) -> str:
    return "\n".join(["Watched references:", *(f"  {watch['endpoint']}: {watch_line(watch)}" for watch in watches)])


def _standing(watch: Mapping[str, Any]) -> str:
    model = _name(watch["model"]) if watch["model"] else ""
    match watch["stage"]:
        case "current":
            return f"names {_name(watch['in_service'])}, which is in service"
        case "moved":
            return f"names {model}, which is not here yet"
        case "ready":
            return f"names {model}, which is here and passed its checks"
        case "rolling":
            return f"names {model}, and rollout {watch['rollout']} moves the traffic to it"
        case "stopped":
            bars = [bar for bar in watch["barred"] if bar["model"] == watch["model"]]
            reason = f": {bars[-1]['reason']}" if bars else ""
            again = f"crossfade model accept {watch['endpoint']}"
            return f"names {model}, which is not tried by itself{reason} (try it all the same: {again})"
        case _:
            return "not known yet what it names"


def _name(known: Mapping[str, str]) -> str:
    return known["pinned"] or known["version"] or known["sha256"][:12] or known["revision"]


def _times(count: int) -> str:
    return "failed once" if count == 1 else f"failed {count} times"


def _freshness(staleness_s: float | None) -> str:
    return "its source has not answered yet" if staleness_s is None else f"answered {duration(staleness_s)} ago"
