"""What a server can say about itself and its models, for the server-level calls (live, ready, index, health)."""

from __future__ import annotations

from dataclasses import dataclass

SERVER_NAME = "crossfade"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One model version in the repository index. `state` is READY, LOADING, UNAVAILABLE or UNLOADING."""

    name: str
    version: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ServerView:
    """`is_ready`: every endpoint with traffic can answer (the protocol's server-ready)."""

    version: str
    is_ready: bool
    index: tuple[IndexEntry, ...]

    def is_model_ready(self, name: str) -> bool | None:
        """None when there is no such model."""
        states = [entry.state for entry in self.index if entry.name == name]
        return "READY" in states if states else None
