"""`crossfade apply`: make spec files true."""

from __future__ import annotations

from typing import Annotated

import typer

from router.cli.changes import conclude
from router.cli.endpoint import EndRollout
from router.cli.pulling import fetch_first
from router.cli.session import Output, Session, command
from router.cli.sources import spec_source
from router.cli.waiting import DEFAULT_TIMEOUT_S, Timeout, Wait
from router.client_errors import Refused

Files = Annotated[
    list[str], typer.Option("--file", "-f", metavar="SPEC", help="A spec file, or - for stdin. May be repeated.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change; models are fetched for it.")]
AllowSignatureChange = Annotated[
    bool,
    typer.Option("--allow-signature-change", help="Also a model that takes or gives something else than the live one."),
]


def register(app: typer.Typer) -> None:
    command(app, "apply", apply)


def apply(
    session: Session,
    files: Files,
    wait: Wait = True,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    dry_run: DryRun = False,
    force: EndRollout = False,
    allow_signature_change: AllowSignatureChange = False,
) -> int:
    """Make spec files true.

    Creates what is missing, changes what differs, leaves the rest alone. All or nothing: a mistake anywhere refuses
    the whole input. What a spec does not name is never deleted, and traffic, mirror_traffic and instance_count (or
    scale_settings) stay as they are when a spec leaves them out. A rollout starts when everything else in the file is
    in force, and goes on by itself; the traffic of an endpoint beside it says only where a new endpoint begins.

    \b
      crossfade apply -f filetype.yaml --dry-run
      crossfade apply -f blue.yaml -f green.yaml
    """
    from router.spec import OutOfReach, Problem, SpecProblems, read_specs, written_plain

    documents = read_specs([spec_source(file) for file in files])
    plain = [written_plain(document) for document in documents]
    rollouts = [item for item in plain if item["kind"] == "Rollout"]
    with session.client() as client:
        try:
            fetch_first(client, plain, is_quiet=session.output is Output.JSON)
            done = client.apply(
                plain, is_dry_run=dry_run, is_forced=force, is_signature_change_allowed=allow_signature_change
            )
        except Refused as error:
            if error.code not in ("invalid", "source_unavailable") or not error.facts.get("problems"):
                raise
            problems = []
            for item in error.facts["problems"]:
                key, message, hint, index = item["key"], item["message"], item["hint"], item["document"]
                is_ours = isinstance(index, int) and index < len(documents)
                problems.append(
                    documents[index].problem(key, message, hint) if is_ours else Problem(key, message, hint)
                )
            raise (SpecProblems if error.code == "invalid" else OutOfReach)(problems) from None
        return conclude(
            session,
            client,
            done,
            timeout if wait and not dry_run else None,
            then=lambda: client.apply(rollouts)["changes"],
        )
