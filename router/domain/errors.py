"""Errors of the domain. They carry facts; the edges decide how HTTP, gRPC or the CLI say them."""

from __future__ import annotations


class CrossfadeError(Exception):
    """Base of every error that Crossfade raises on purpose."""


class Invalid(CrossfadeError):
    """A value that cannot exist in the domain.

    `key` names the field ("traffic.green"), `hint` says what would be accepted.
    """

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.message = message
        self.hint = hint


class NotFound(CrossfadeError):
    """An endpoint or a deployment that does not exist."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(f"{kind} {name!r} does not exist")
        self.kind = kind
        self.name = name
        self.known = known


class Conflict(CrossfadeError):
    """The change does not fit the present state: somebody was faster, or the thing is in use."""


class Forbidden(CrossfadeError):
    """Whoever asks may not do this. The message says what would be needed."""


class ModelUnavailable(CrossfadeError):
    """A model reference that cannot be resolved or a file that is not what it should be."""


class StoreFailed(CrossfadeError):
    """The durable state cannot be read or written: disk full, a damaged file, a file of a newer version."""
