"""What is known of watched references, in the file of `adapters/sqlite_store.py`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from router.domain import plain
from router.domain.errors import Invalid, StoreFailed
from router.domain.watching import Watched

if TYPE_CHECKING:
    from adapters.sqlite_store import SqliteStore

# Came without a new version of the file: a Crossfade that does not know the table leaves it alone.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS watched (
    endpoint TEXT PRIMARY KEY REFERENCES endpoint (name) ON DELETE CASCADE,
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


class SqliteWatches:
    """Implements `router.models.watch_ports.WatchStore`. Raises `StoreFailed`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        with store.transaction() as connection:
            connection.execute(_SCHEMA)

    def load_watched(self) -> tuple[Watched, ...]:
        with self._store.transaction() as connection:
            rows = connection.execute("SELECT state FROM watched ORDER BY endpoint").fetchall()
        try:
            return tuple(plain.from_plain(Watched, json.loads(state)) for (state,) in rows)
        except Invalid as error:
            raise StoreFailed(f"a watch was stored that this version cannot read: {error}") from error

    def save_watched(self, watched: Watched) -> None:
        """That of an endpoint that was deleted meanwhile is not written."""
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO watched SELECT name, ? FROM endpoint WHERE name = ?",
                (json.dumps(plain.to_plain(watched)), watched.endpoint),
            )
