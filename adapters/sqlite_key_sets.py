"""The key sets of identity providers that were last good, in the file of `adapters/sqlite_store.py`.

The table needs no version: it is made when it is not there. Keys in it are public.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from router.domain.tokens import KeySet, KeySetFile, KeySetUrl, KeySource
from router.key_sets import Kept

if TYPE_CHECKING:
    from adapters.sqlite_store import SqliteStore

_SCHEMA = """
CREATE TABLE IF NOT EXISTS key_set (
    kind TEXT NOT NULL,
    place TEXT NOT NULL,
    content TEXT NOT NULL,
    taken_at TEXT NOT NULL,
    PRIMARY KEY (kind, place)
) STRICT, WITHOUT ROWID;
"""


class SqliteKeySets:
    """Implements `router.key_sets.KeySetStore`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        with store.transaction() as connection:
            connection.execute(_SCHEMA)

    def load(self) -> dict[KeySource, Kept]:
        with self._store.transaction() as connection:
            rows = connection.execute("SELECT kind, place, content, taken_at FROM key_set").fetchall()
        return {
            _source(kind, place): Kept(KeySet(content), datetime.fromisoformat(taken_at))
            for kind, place, content, taken_at in rows
        }

    def put(self, source: KeySource, kept: Kept) -> None:
        row = (*_row(source), kept.keys.content, kept.taken_at.isoformat())
        with self._store.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO key_set VALUES (?, ?, ?, ?)", row)

    def forget(self, source: KeySource) -> None:
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM key_set WHERE kind = ? AND place = ?", _row(source))


def _row(source: KeySource) -> tuple[str, str]:
    return ("file" if isinstance(source, KeySetFile) else "url", str(source))


def _source(kind: str, place: str) -> KeySource:
    return KeySetFile(place) if kind == "file" else KeySetUrl(place)
