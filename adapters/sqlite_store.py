"""The durable state in one SQLite file. This file alone touches sqlite3.

WAL with synchronous=FULL: a change that `save` returned for survives kill -9 and a power cut. Every method is one
transaction on one connection, guarded by a lock, so it may be called from any thread.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from router.domain.endpoint import DeployedModel, Deployment, Endpoint, EndpointState
from router.domain.errors import Conflict, CrossfadeError, StoreFailed
from router.domain.model_ref import ResolvedModel
from router.domain.routing import Address, Replica, ReplicaState, TcpAddress, UnixAddress
from router.domain.traffic import Traffic
from router.spec import read_documents, to_plain

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x43664164  # "CfAd": tells our file from any other SQLite file

# A spec is stored as the JSON of its spec document: one representation, read back through the same parser.
_SCHEMA = f"""
CREATE TABLE endpoint (
    name TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    spec TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE deployment (
    endpoint TEXT NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    spec TEXT NOT NULL,
    model_path TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    PRIMARY KEY (endpoint, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE in_force (
    endpoint TEXT PRIMARY KEY REFERENCES endpoint (name) ON DELETE CASCADE,
    traffic TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE replica (
    id TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    deployment TEXT NOT NULL,
    generation TEXT NOT NULL,
    address TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class SqliteStore:
    """Implements `router.ports.Store`. Raises `StoreFailed` when the file cannot be opened, read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._translated():
            # Autocommit: every transaction below is begun and ended in words.
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def load(self) -> dict[str, EndpointState]:
        with self._transaction() as connection:
            endpoints = connection.execute("SELECT name, revision, spec FROM endpoint ORDER BY name").fetchall()
            rows = connection.execute(
                "SELECT endpoint, spec, model_path, model_sha256 FROM deployment ORDER BY endpoint, name"
            ).fetchall()
        try:
            deployments: dict[str, dict[str, DeployedModel]] = {}
            for endpoint, spec, path, sha256 in rows:
                deployed = DeployedModel(_read(spec, Deployment), ResolvedModel(path, sha256))
                deployments.setdefault(endpoint, {})[deployed.spec.name] = deployed
            return {
                name: EndpointState(_read(spec, Endpoint), MappingProxyType(deployments.get(name, {})), revision)
                for name, revision, spec in endpoints
            }
        except CrossfadeError as error:
            raise StoreFailed(f"{self._path} holds a spec that this version cannot read: {error}") from error

    def save(self, changed: Iterable[EndpointState], deleted: Iterable[str]) -> None:
        """Raises `Conflict`, and writes nothing, when a stored revision is not one less than the changed one."""
        with self._transaction() as connection:
            for name in deleted:
                connection.execute("DELETE FROM endpoint WHERE name = ?", (name,))
            for state in changed:
                self._save_one(connection, state)

    def load_replicas(self) -> tuple[Replica, ...]:
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT id, endpoint, deployment, generation, address, state, reason FROM replica ORDER BY id"
            ).fetchall()
        return tuple(
            Replica(key, endpoint, deployment, generation, _address(address), ReplicaState(state), reason)
            for key, endpoint, deployment, generation, address, state, reason in rows
        )

    def save_replicas(self, replicas: Iterable[Replica]) -> None:
        rows = [
            (item.id, item.endpoint, item.deployment, item.generation, str(item.address), str(item.state), item.reason)
            for item in replicas
        ]
        with self._transaction() as connection:
            connection.execute("DELETE FROM replica")
            connection.executemany("INSERT INTO replica VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def load_in_force(self) -> dict[str, Traffic]:
        with self._transaction() as connection:
            rows = connection.execute("SELECT endpoint, traffic FROM in_force").fetchall()
        return {endpoint: Traffic.of(json.loads(traffic)) for endpoint, traffic in rows}

    def save_in_force(self, endpoint: str, traffic: Traffic) -> None:
        """An endpoint that was deleted meanwhile has nothing in force."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO in_force SELECT name, ? FROM endpoint WHERE name = ?",
                (json.dumps(traffic.as_dict()), endpoint),
            )

    def _save_one(self, connection: sqlite3.Connection, state: EndpointState) -> None:
        name = state.endpoint.name
        row = connection.execute("SELECT revision FROM endpoint WHERE name = ?", (name,)).fetchone()
        stored = row[0] if row else 0
        if stored != state.revision - 1:
            raise Conflict(
                f"endpoint {name!r} is stored at revision {stored}: revision {state.revision} does not follow"
            )
        connection.execute(
            "INSERT INTO endpoint VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, spec = excluded.spec",
            (name, state.revision, json.dumps(to_plain(state.endpoint))),
        )
        connection.execute("DELETE FROM deployment WHERE endpoint = ?", (name,))
        connection.executemany(
            "INSERT INTO deployment VALUES (?, ?, ?, ?, ?)",
            [
                (name, item.spec.name, json.dumps(to_plain(item.spec)), item.model.path, item.model.sha256)
                for item in state.deployments.values()
            ],
        )

    def _prepare(self) -> None:
        """Check whose file it is before anything is written to it; create the tables in a new one."""
        execute = self._connection.execute
        (application_id,) = execute("PRAGMA application_id").fetchone()
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application_id != _APPLICATION_ID:
            raise StoreFailed(f"{self._path} is not Crossfade's: it is a database of another program")
        if version > SCHEMA_VERSION:
            raise StoreFailed(
                f"{self._path} was written by a newer Crossfade (format {version}, this one knows {SCHEMA_VERSION}):"
                " upgrade Crossfade, or use another data directory"
            )
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        (verdict,) = execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            words = " ".join(verdict.split())
            raise StoreFailed(f"{self._path} is damaged ({words}): restore it from a backup, or move it away")
        if not tables:
            self._connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends it by itself when the disk is full
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreFailed(f"{self._path} cannot be used: {error}{_advice(error)}") from error


def _advice(error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorname", "") or "":
        case "SQLITE_NOTADB" | "SQLITE_CORRUPT":
            return " (restore it from a backup, or move it away to start with an empty state)"
        case "SQLITE_FULL":
            return " (free some disk space)"
        case name if name.startswith("SQLITE_BUSY"):
            return " (another process holds it: is a second control plane running?)"
        case name if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            return " (check that the folder exists and can be written)"
    return ""


_Spec = TypeVar("_Spec", Endpoint, Deployment)


def _read(text: str, kind: type[_Spec]) -> _Spec:
    (document,) = read_documents([json.loads(text)])
    content = document.content
    if not isinstance(content, kind):
        raise StoreFailed(f"expected {kind.__name__}, found {type(content).__name__}")
    return content


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        return UnixAddress(text.removeprefix("unix:"))
    ip, _, port = text.rpartition(":")
    return TcpAddress(ip, int(port))
