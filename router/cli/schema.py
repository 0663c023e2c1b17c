"""`crossfade schema`: the JSON Schema of the specs."""

from __future__ import annotations

import typer

from router.cli.output import print_json
from router.cli.session import Session, command


def register(app: typer.Typer) -> None:
    command(app, "schema", schema)


def schema(session: Session) -> None:
    """Print the JSON Schema of the specs.

    It describes one document, for editors and checks, and is JSON with every -o.

    \b
      crossfade schema > crossfade.schema.json
    and in the first line of a spec:
      # yaml-language-server: $schema=crossfade.schema.json
    """
    from router.spec import json_schema

    print_json(json_schema())
