"""`crossfade model export|import`: models that travel in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from router.cli.output import table
from router.cli.pulling import Transferring
from router.cli.session import Output, Session, command

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL...", help="References that were pulled, or digests.", show_default=False)
]
Target = Annotated[Path, typer.Option("--file", "-F", metavar="FILE.tar", help="Where to.", show_default=False)]
Archive = Annotated[Path, typer.Argument(metavar="FILE.tar", help="An OCI image layout in a tar.", show_default=False)]
Name = Annotated[
    str,
    typer.Option("--as", metavar="REFERENCE", help="What the only model in it is called here, for good."),
]


def register(app: typer.Typer) -> None:
    command(app, "export", export)
    command(app, "import", take_in)


def export(session: Session, models: Models, file: Target) -> None:
    """Write models into a file, for gateways that reach no registry.

    It is an OCI image layout in a tar. The same models give the same bytes. Other tools can read it: skopeo copy
    oci-archive:FILE.tar docker://...

    \b
      crossfade model export models:/fraud/3 --file fraud-3.tar
      crossfade model export 3f9a1c 8be012 -F both.tar
    """
    with session.client() as client, Transferring(file.name, -1, is_quiet=session.output is Output.JSON) as told:
        size = client.export_models(models, file, told)
    session.show({"file": str(file), "size": size}, lambda: f"{file}: {size} bytes")


def take_in(session: Session, file: Archive, name: Name = "") -> None:
    """Take the models of a file into the cache. Everything is verified before any of it is seen.

    Deployments that name a model by its pinned reference run it from then on without any registry. Where a model comes
    from is what the file says: import only files from people whom you trust, or require signatures.

    \b
      crossfade model import fraud-3.tar
      crossfade model import other.tar --as models:/fraud/3
    """
    size = file.stat().st_size if file.is_file() else -1
    with session.client() as client, Transferring(file.name, size, is_quiet=session.output is Output.JSON) as told:
        models = client.import_models(file, name, told)
    session.show({"models": models}, lambda: _text(models))


def _text(models: list[dict[str, Any]]) -> str:
    rows = [(model["digest"][:12], model["size"], model["ref"], model["pinned"]) for model in models]
    return table(("digest", "bytes", "reference", "pinned"), rows)
