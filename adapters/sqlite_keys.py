"""The keys of endpoints, as hashes, in the file of `adapters/sqlite_store.py`.

The table needs no version: it is made when it is not there. An endpoint that is deleted takes its rows with it, so that
one that is later made under the same name has none of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from adapters.sqlite_access import append
from router.domain.audit import Record
from router.domain.callers import ApiKey, KeySlot

if TYPE_CHECKING:
    from adapters.sqlite_store import SqliteStore

_SCHEMA = """
CREATE TABLE IF NOT EXISTS api_key (
    endpoint TEXT NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    slot TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    created_at TEXT NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (endpoint, slot)
) STRICT, WITHOUT ROWID;
"""


class SqliteKeys:
    """Implements `router.keys.KeyStore`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        with store.transaction() as connection:
            connection.execute(_SCHEMA)

    def load(self) -> dict[str, tuple[ApiKey, ...]]:
        with self._store.transaction() as connection:
            rows = connection.execute(
                "SELECT endpoint, slot, sha256, created_at, created_by FROM api_key ORDER BY endpoint, slot"
            ).fetchall()
        found: dict[str, list[ApiKey]] = {}
        for endpoint, slot, sha256, created_at, created_by in rows:
            key = ApiKey(KeySlot(slot), sha256, datetime.fromisoformat(created_at), created_by)
            found.setdefault(endpoint, []).append(key)
        return {endpoint: tuple(keys) for endpoint, keys in found.items()}

    def put(self, endpoint: str, key: ApiKey, record: Record) -> None:
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO api_key VALUES (?, ?, ?, ?, ?)",
                (endpoint, str(key.slot), key.sha256, key.created_at.isoformat(), key.created_by),
            )
            append(connection, (record,))

    def remove(self, endpoint: str, slot: KeySlot, record: Record) -> None:
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM api_key WHERE endpoint = ? AND slot = ?", (endpoint, str(slot)))
            append(connection, (record,))
