"""The JSON Schema of one spec document, for editors and other tools. Derived from the tables, so it cannot drift."""

from __future__ import annotations

from typing import Any

from router.spec.tables import KINDS, MANAGED_DEPLOYMENT


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. Two rules are beyond it and stay with the parser: the sum of `traffic`, and no duplicates."""
    variants = []
    for kind, section in (*KINDS.items(), ("Deployment", MANAGED_DEPLOYMENT)):
        schema = section.schema()
        word = {"const": kind, "description": "What this document describes."}
        variants.append(
            {
                "title": kind,
                **schema,
                "properties": {"kind": word, **schema["properties"]},
                "required": ["kind", *schema["required"]],
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Crossfade spec",
        "description": "One document of a Crossfade spec file.",
        "oneOf": variants,
    }
