"""Operators' tokens, quotas and the audit log, in the file of `adapters/sqlite_store.py`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from router.domain import plain
from router.domain.access import Token
from router.domain.audit import Link, Record, linked
from router.domain.quota import Quota

if TYPE_CHECKING:
    from adapters.sqlite_store import SqliteStore

# Since version 3. Lines of the audit log are only ever added.
ACCESS_SCHEMA = """
CREATE TABLE token (
    name TEXT PRIMARY KEY,
    content TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE quota (
    team TEXT PRIMARY KEY,
    content TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE chain (
    number INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE TRIGGER chain_is_not_changed BEFORE UPDATE ON chain
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER chain_is_not_cut BEFORE DELETE ON chain
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""
_COLUMNS = "number, at, actor, action, subject, detail, previous, hash"


class SqliteAccess:
    """Implements `router.access.TokenStore`, `router.ports.QuotaStore` and `router.ports.AuditLog`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def load_tokens(self) -> tuple[Token, ...]:
        with self._store.transaction() as connection:
            rows = connection.execute("SELECT content FROM token ORDER BY name").fetchall()
        return tuple(plain.from_plain(Token, json.loads(content)) for (content,) in rows)

    def add_token(self, token: Token, record: Record) -> None:
        with self._store.transaction() as connection:
            connection.execute("INSERT INTO token VALUES (?, ?)", (token.name, json.dumps(plain.to_plain(token))))
            append(connection, (record,))

    def delete_token(self, name: str, record: Record) -> None:
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM token WHERE name = ?", (name,))
            append(connection, (record,))

    def load_quotas(self) -> dict[str, Quota]:
        with self._store.transaction() as connection:
            rows = connection.execute("SELECT team, content FROM quota ORDER BY team").fetchall()
        return {group: plain.from_plain(Quota, json.loads(content)) for group, content in rows}

    def save_quota(self, group: str, quota: Quota, record: Record) -> None:
        with self._store.transaction() as connection:
            content = json.dumps(plain.to_plain(quota))
            connection.execute("INSERT OR REPLACE INTO quota VALUES (?, ?)", (group, content))
            append(connection, (record,))

    def delete_quota(self, group: str, record: Record) -> None:
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM quota WHERE team = ?", (group,))
            append(connection, (record,))

    def add(self, records: Collection[Record]) -> None:
        with self._store.transaction() as connection:
            append(connection, records)

    def lines(self, after: int, limit: int) -> tuple[Link, ...]:
        with self._store.transaction() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM chain WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
            ).fetchall()
        return tuple(map(_link, rows))

    def last_lines(self, limit: int) -> tuple[Link, ...]:
        with self._store.transaction() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM chain ORDER BY number DESC LIMIT ?", (limit,)).fetchall()
        return tuple(map(_link, reversed(rows)))


def append(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    """Add lines within the caller's transaction: what was done and its line are written together or not at all."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM chain ORDER BY number DESC LIMIT 1").fetchone()
    last = _link(row) if row else None
    for record in records:
        last = linked(last, record)
        connection.execute(
            "INSERT INTO chain VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                last.number,
                record.at.isoformat(),
                record.actor,
                record.action,
                record.subject,
                record.detail,
                last.previous,
                last.hash,
            ),
        )


def _link(row: tuple[int, str, str, str, str, str, str, str]) -> Link:
    number, at, actor, action, subject, detail, previous, hash_ = row
    return Link(number, Record(datetime.fromisoformat(at), actor, action, subject, detail), previous, hash_)
