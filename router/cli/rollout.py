"""`crossfade rollout start|status|watch|pause|resume|promote|abort|undo|history|diff`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli import rollout_watching as watching
from router.cli.output import print_json
from router.cli.rollout_text import differences_text, history_table, overview, trail_lines
from router.cli.session import Output, Session, command
from router.cli.sources import spec_source
from router.domain.errors import Invalid

if TYPE_CHECKING:
    from router.client import AdminClient

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint.", show_default=False)]
To = Annotated[str, typer.Option("--to", metavar="DEPLOYMENT", help="Where the traffic goes.", show_default=False)]
StrategyName = Annotated[
    str | None,
    typer.Option("--strategy", metavar="NAME", help="canary (the default), linear, all_at_once or shadow."),
]
Steps = Annotated[
    str | None, typer.Option("--steps", metavar="FILE", help="Your own steps: a YAML list, as in a spec; - for stdin.")
]
Alpha = Annotated[
    float | None, typer.Option("--alpha", help="How often a healthy candidate may be rolled back. Default: 0.01.")
]
ErrorMargin = Annotated[
    float | None,
    typer.Option("--error-margin", help="So much more of the requests may fail. Default: 0.005, half a percent."),
]
LatencyMargin = Annotated[
    float | None, typer.Option("--latency-margin", help="So much slower it may be. Default: 0.25, a quarter.")
]
MaxWait = Annotated[
    str | None,
    typer.Option("--max-wait", metavar="DURATION", help="Pause when a step has no verdict after so long. Default: 1h."),
]
KeepOld = Annotated[
    str | None,
    typer.Option("--keep-old", metavar="DURATION", help="Keep the old deployment's replicas so long. Default: 10m."),
]
Shield = Annotated[
    bool | None,
    typer.Option("--shield/--no-shield", help="Stable answers what fails on the candidate. Default: it does."),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the rollout is decided.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait. Default: until it is decided."),
]
Full = Annotated[bool, typer.Option("--full", help="Take all steps that are left, at once.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]
Trail = Annotated[bool, typer.Option("--trail", help="Show the audit trail: everything that happened, and who did it.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="How many to show at most.")]


def register(app: typer.Typer) -> None:
    command(app, "start", start)
    command(app, "status", status)
    command(app, "watch", watch)
    command(app, "pause", pause)
    command(app, "resume", resume)
    command(app, "promote", promote)
    command(app, "abort", abort)
    command(app, "undo", undo)
    command(app, "history", history)
    command(app, "diff", diff)


def start(
    session: Session,
    endpoint: Endpoint,
    to: To,
    strategy: StrategyName = None,
    steps: Steps = None,
    alpha: Alpha = None,
    error_margin: ErrorMargin = None,
    latency_margin: LatencyMargin = None,
    max_wait: MaxWait = None,
    keep_old: KeepOld = None,
    shield: Shield = None,
    wait: Wait = False,
    timeout: Timeout = None,
) -> int:
    """Begin to move an endpoint's traffic to another deployment.

    It moves as far and as fast as the evidence allows: on, when the candidate is shown to be as good; back, when it is
    shown to fail more, to be slower or to answer differently. The control plane does this by itself, and this command
    may go away. What else a rollout can be told (own metrics, webhooks) goes into a spec of kind Rollout.

    \b
      crossfade rollout start filetype --to green
      crossfade rollout start filetype --to green --strategy all_at_once --wait
      crossfade rollout start filetype --to green --steps steps.yaml --max-wait 10m

    \b
    steps.yaml:
      - set_mirror: 10
      - analyze: {bake: 60s, min_requests: 200}
      - set_weight: 10
      - pause: until_promoted
      - set_weight: 100

    With --wait the exit code says how it ended: 0 promoted, 3 rolled back or aborted, 4 not decided in time.
    """
    if strategy is not None and steps is not None:
        raise Invalid("--steps", "stands beside --strategy", "keep one of the two")
    analysis = _given(alpha=alpha, error_margin=error_margin, latency_margin=latency_margin, max_wait=max_wait)
    rollout = {"to": to} | _given(strategy=strategy, analysis=analysis or None, keep_old=keep_old, shield=shield)
    if steps is not None:
        from router.spec.steps import read_steps

        rollout["steps"] = read_steps(spec_source(steps, "--steps"))
    with session.client() as client:
        begun = client.start_rollout(endpoint, rollout)
        if not wait:
            _show(session, begun)
            return 0
        is_json = session.output is Output.JSON  # then stdout is for the result alone
        display = watching.Lines(client, sys.stderr) if is_json else _display(session, client)
        ended = watching.watch(client, begun, display, timeout)
        if is_json:
            print_json(ended)
        return watching.conclude(ended)


def status(session: Session, endpoint: Endpoint) -> None:
    """Show an endpoint's present or last rollout.

    Its steps, the weights in force, the replicas of both sides, and the evidence, as numbers and in words.

    \b
      crossfade rollout status filetype
      crossfade rollout status filetype -o json
    """
    with session.client() as client:
        _show(session, client.rollout(endpoint))


def watch(session: Session, endpoint: Endpoint, timeout: Timeout = None) -> int:
    """Look on until the rollout is decided. Ctrl-C ends the looking, not the rollout.

    On a terminal it is drawn in place; elsewhere there is a line for every change, and with -o json a line of JSON.
    The exit code says how it ended: 0 promoted, 3 rolled back or aborted, 4 not decided in time.

    \b
      crossfade rollout watch filetype
      crossfade rollout watch filetype -o json | jq -r .phase
    """
    with session.client() as client:
        present = client.rollout(endpoint)
        ended = watching.watch(client, present, _display(session, client), timeout)
    return watching.conclude(ended)


def pause(session: Session, endpoint: Endpoint) -> None:
    """Stay at the present weights until it is resumed.

    A candidate that is shown to fail is rolled back all the same.

    \b
      crossfade rollout pause filetype
    """
    _do(session, lambda client: client.pause_rollout(endpoint))


def resume(session: Session, endpoint: Endpoint) -> None:
    """Go on after a pause. An analysis begins its time anew; a step that waits for this is over.

    \b
      crossfade rollout resume filetype
    """
    _do(session, lambda client: client.resume_rollout(endpoint))


def promote(session: Session, endpoint: Endpoint, full: Full = False) -> None:
    """Take the next step without waiting for evidence.

    With --full all steps that are left, at once.

    \b
      crossfade rollout promote filetype
      crossfade rollout promote filetype --full
    """
    _do(session, lambda client: client.promote_rollout(endpoint, is_full=full))


def abort(session: Session, endpoint: Endpoint, reason: Reason = "") -> None:
    """Return all traffic to the stable deployment.

    At once, and the candidate keeps its replicas.

    \b
      crossfade rollout abort filetype --reason "wrong labels for PDFs"
    """
    _do(session, lambda client: client.abort_rollout(endpoint, reason))


def undo(session: Session, endpoint: Endpoint) -> None:
    """Move all traffic back after a rollout that succeeded.

    At once: this is a rollout of one step. Where the old deployment was scaled down already, it gets its replicas back
    first.

    \b
      crossfade rollout undo filetype
    """
    _do(session, lambda client: client.undo_rollout(endpoint))


def history(session: Session, endpoint: Endpoint, trail: Trail = False, limit: Limit = 100) -> None:
    """List the rollouts of an endpoint, the latest first.

    With --trail everything that happened in them, the latest last: who, when, what and why.

    \b
      crossfade rollout history filetype
      crossfade rollout history filetype --trail
    """
    with session.client() as client:
        if trail:
            entries = client.rollout_trail(endpoint, limit)
            session.show({"entries": entries}, lambda: trail_lines(entries) or _NO_ROLLOUT.format(endpoint))
            return
        rollouts = client.rollouts(endpoint)[:limit]
    now = datetime.now(UTC)
    session.show(
        {"rollouts": rollouts}, lambda: history_table(rollouts, now) if rollouts else _NO_ROLLOUT.format(endpoint)
    )


def diff(session: Session, endpoint: Endpoint, limit: Limit = 10) -> None:
    """Show requests that both sides answered differently.

    The latest first. They are sampled while a share of the requests is mirrored (set_mirror; the canary begins so).

    \b
      crossfade rollout diff filetype
      crossfade rollout diff filetype --limit 100 -o json
    """
    with session.client() as client:
        reply = client.rollout_differences(endpoint, limit)
    session.show(reply, lambda: differences_text(reply))


_NO_ROLLOUT = "Endpoint {0} has had no rollout yet. Begin one: crossfade rollout start {0} --to DEPLOYMENT"


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _do(session: Session, call: Callable[[AdminClient], dict[str, Any]]) -> None:
    with session.client() as client:
        _show(session, call(client))


def _show(session: Session, rollout: Mapping[str, Any]) -> None:
    session.show(rollout, lambda: overview(rollout, datetime.now(UTC), shutil.get_terminal_size().columns))


def _display(session: Session, client: AdminClient) -> watching.Display:
    if session.output is Output.JSON:
        return watching.JsonLines()
    return watching.Screen(sys.stdout) if sys.stdout.isatty() else watching.Lines(client, sys.stdout)
