"""`crossfade model resolve|pull|list|show|verify|gc`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from router.cli.output import duration, listing, say, table
from router.cli.pulling import PullFailed, follow, size
from router.cli.session import ExitCode, Output, Session, command
from router.domain.model_ref import ModelRef

Reference = Annotated[str, typer.Argument(metavar="REFERENCE", help="As in a spec's `model`.", show_default=False)]
Digest = Annotated[
    str, typer.Argument(metavar="DIGEST", help="Its digest; the first 6 digits are enough.", show_default=False)
]
Digests = Annotated[list[str] | None, typer.Argument(metavar="[DIGEST]...", help="Only these.", show_default=False)]
KeepLast = Annotated[int, typer.Option("--keep-last", min=0, help="How many models of every reference stay.")]
UnusedFor = Annotated[
    float, typer.Option("--unused-for", min=0, metavar="SECONDS", help="Leave what somebody looked for since then.")
]


def register(app: typer.Typer) -> None:
    command(app, "resolve", resolve)
    command(app, "pull", pull)
    command(app, "list", list_all)
    command(app, "show", show)
    command(app, "verify", verify)
    command(app, "gc", gc)


def resolve(session: Session, reference: Reference) -> None:
    """Ask a model's source what a reference names now. Nothing is fetched, with one exception.

    An image in an OCI registry says which files it has only when its layers are here: they are fetched, and kept for a
    pull within a day, which transfers nothing then.

    \b
      crossfade model resolve models:/fraud@champion
      crossfade model resolve oci://registry.example.com/models/fraud:3
    """
    wanted = _from_here(reference)
    with session.client() as client:
        if wanted.startswith("oci:"):
            ended = follow(client, wanted, only_resolve=True, is_quiet=session.output is Output.JSON)
            if ended["state"] != "done":
                raise PullFailed(ended["reason"])
        found = client.resolve_model(wanted)
    session.show(found, lambda: _resolution_text(found))


def pull(session: Session, reference: Reference) -> int:
    """Fetch a model into the cache.

    Deploying it needs no network then. What is there already is not fetched again, and what broke off is resumed.
    Ctrl-C ends the looking; the gateway goes on fetching.

    \b
      crossfade model pull hf://onnx-community/bert-base-uncased
      crossfade model pull s3://models/fraud/7 -o json
    """
    with session.client() as client:
        ended = follow(client, _from_here(reference), is_quiet=session.output is Output.JSON)
    if ended["state"] != "done":
        raise PullFailed(ended["reason"])
    session.show(ended, lambda: _pulled_text(ended))
    return ExitCode.DONE


def list_all(session: Session) -> None:
    """List the models in the cache.

    \b
      crossfade model list
    """
    with session.client() as client:
        models = client.models()
    session.show({"models": models}, lambda: _models_table(models))


def show(session: Session, digest: Digest) -> None:
    """Show one model: its files, where it came from, who uses it.

    \b
      crossfade model show 3fa1c09b77d2
    """
    with session.client() as client:
        model = client.model(digest)
    session.show(model, lambda: _model_text(model))


def verify(session: Session, digests: Digests = None) -> int:
    """Read models in the cache again and compare their digests.

    All of them, unless some are named. A model that was damaged is put aside: pull or apply it again. Exit code 1 when
    there was one.

    \b
      crossfade model verify
    """
    with session.client() as client:
        wanted = digests or [model["digest"] for model in client.models()]
        results = [client.verify_model(digest) for digest in wanted]
    damaged = [result for result in results if not result["is_intact"]]
    session.show({"models": results}, lambda: _verified_text(results))
    for result in damaged:
        say(f"error: {result['reason']}")
    return ExitCode.FAILED if damaged else ExitCode.DONE


def gc(session: Session, keep_last: KeepLast = 2, unused_for: UnusedFor = 3600.0) -> None:
    """Remove models from the cache that nobody needs.

    Those stay that a deployment serves, or served before, the last ones of every reference, and what somebody looked
    for a short while ago.

    \b
      crossfade model gc
      crossfade model gc --keep-last 0 --unused-for 0
    """
    with session.client() as client:
        removed = client.collect_models(keep_last, unused_for)
    count = len(removed["digests"])
    models = "1 model" if count == 1 else f"{count} models"
    session.show(removed, lambda: f"{models} removed, {size(removed['freed_bytes'])} freed")


def _from_here(reference: str) -> str:
    """A relative path is meant from where the command runs."""
    ref = ModelRef.parse(reference)
    return str(ModelRef("file", os.path.abspath(ref.location)) if ref.scheme == "file" else ref)


def _resolution_text(found: Mapping[str, Any]) -> str:
    sizes = [file["size"] for file in found["files"]]
    facts = [
        ("reference", found["reference"]),
        ("pinned", found["pinned"]),
        ("version", found["version"]),
        ("files", f"{len(sizes)}, {size(sum(sizes)) if -1 not in sizes else 'size not told'}"),
        ("in the cache", found["digest"] or "no"),
        *found["lineage"].items(),
    ]
    return listing(facts)


def _pulled_text(ended: Mapping[str, Any]) -> str:
    fetched = size(ended["fetched_bytes"]) if ended["fetched_bytes"] else "nothing: it was here"
    facts = [("digest", ended["digest"]), ("path", ended["path"]), ("transferred", fetched)]
    return listing(facts)


def _models_table(models: Sequence[Mapping[str, Any]]) -> str:
    now = datetime.now(UTC)
    rows = [
        (
            model["digest"][:12],
            size(model["size"]),
            len(model["files"]),
            model["origins"][-1]["reference"] if model["origins"] else "",
            f"{duration((now - datetime.fromisoformat(model['added_at'])).total_seconds())} ago",
            " ".join(model["used_by"]),
        )
        for model in models
    ]
    return table(("digest", "size", "files", "reference", "added", "used by"), rows)


def _model_text(model: Mapping[str, Any]) -> str:
    facts: list[tuple[str, Any]] = [
        ("digest", model["digest"]),
        ("size", size(model["size"])),
        ("added", model["added_at"]),
        ("used by", " ".join(model["used_by"])),
    ]
    for origin in model["origins"]:
        facts.append(("pulled", f"{origin['pulled_at']} by {origin['pulled_by']}"))
        facts += origin_facts(origin)
    files = table(("file", "size", "sha256"), [(it["path"], size(it["size"]), it["sha256"]) for it in model["files"]])
    return f"{listing(facts)}\n\n{files}"


def origin_facts(origin: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Where a model came from, as lines of a listing."""
    lineage = sorted(origin["lineage"].items())
    shown = [("reference", origin["reference"]), ("pinned", origin["pinned"]), ("version", origin["version"]), *lineage]
    return [(f"  {key}", value) for key, value in shown if value]


def _verified_text(results: Sequence[Mapping[str, Any]]) -> str:
    rows = [(result["digest"][:12], "intact" if result["is_intact"] else "damaged") for result in results]
    return table(("digest", "state"), rows)
