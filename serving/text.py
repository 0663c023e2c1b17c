"""Words from clients inside error messages: quoted, and short whatever their length."""

from __future__ import annotations

from collections.abc import Sequence

_LIMIT = 100


def quoted(word: object) -> str:
    """`repr`, cut to about 100 characters. Control characters and lone surrogates come out escaped."""
    if isinstance(word, str) and len(word) > _LIMIT:
        return repr(word[:_LIMIT]) + "…"
    text = repr(word)
    return text if len(text) <= _LIMIT else text[:_LIMIT] + "…"


def shape_text(shape: Sequence[object]) -> str:
    """`[1, 64]`, with long shapes cut."""
    if len(shape) <= 16:
        return quoted(list(shape))
    return f"of {len(shape)} axes"
