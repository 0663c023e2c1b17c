"""The durable state in one SQLite file. This file alone touches sqlite3.

WAL with synchronous=FULL: a change that `save` returned for survives kill -9 and a power cut. Every method is one
transaction on one connection, guarded by a lock, so it may be called from any thread.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from adapters.sqlite_access import ACCESS_SCHEMA, append
from router.domain import plain
from router.domain.audit import Record
from router.domain.deployment import DeployedModel, Deployment
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Conflict, CrossfadeError, Invalid, StoreFailed
from router.domain.evidence import Evidence
from router.domain.listening import GatewaySpec
from router.domain.model_ref import ModelRef, ResolvedModel
from router.domain.rollout import Announce, Page, Rollout
from router.domain.routing import Address, Replica, ReplicaState, TcpAddress, TritonAddress, UnixAddress
from router.domain.traffic import Traffic
from router.rollout_ports import Entry, record_of
from router.spec import read_documents, to_plain

_APPLICATION_ID = 0x43664164  # "CfAd": tells our file from any other SQLite file

# A spec is stored as the JSON of its spec document: one representation, read back through the same parser.
_SCHEMA = """
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
"""

# Since version 2. `number` is the order in which they began. The audit trail outlives the rollouts that are forgotten.
_ROLLOUT_SCHEMA = """
CREATE TABLE rollout (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    endpoint TEXT NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    state TEXT NOT NULL,
    evidence TEXT NOT NULL
) STRICT;
CREATE INDEX rollout_of_endpoint ON rollout (endpoint, number);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    rollout TEXT NOT NULL,
    revision INTEGER NOT NULL,
    endpoint TEXT NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    is_page INTEGER NOT NULL,
    announcement TEXT NOT NULL,
    UNIQUE (rollout, revision)
) STRICT;
CREATE INDEX audit_of_endpoint ON audit (endpoint, number);
"""
_ROLLOUTS_KEPT = 50  # of each endpoint

# Since version 4: who has to be told of which line of the trail.
_OUTBOX_SCHEMA = """
CREATE TABLE untold (
    number INTEGER PRIMARY KEY,
    rollout TEXT NOT NULL,
    revision INTEGER NOT NULL,
    url TEXT NOT NULL,
    UNIQUE (rollout, revision, url),
    FOREIGN KEY (rollout, revision) REFERENCES audit (rollout, revision) ON DELETE CASCADE
) STRICT;
"""

# Since version 5: the gateway as a whole, when a spec described it.
_GATEWAY_SCHEMA = """
CREATE TABLE gateway (
    number INTEGER PRIMARY KEY CHECK (number = 1),
    spec TEXT NOT NULL
) STRICT;
"""

# Since version 6, what is written here as an objective was set by somebody, and not for a Triton of ours, which heeds
# none. Before, the default was written as well.
_OBJECTIVES_THAT_WERE_SET = """
UPDATE deployment SET spec = json_remove(spec, '$.batching.latency_slo_ms')
    WHERE json_extract(spec, '$.batching.latency_slo_ms') = 50 OR json_extract(spec, '$.triton.mode') = 'managed';
"""

_FORMATS = (  # what each version added
    _SCHEMA,
    _ROLLOUT_SCHEMA,
    ACCESS_SCHEMA,
    _OUTBOX_SCHEMA,
    _GATEWAY_SCHEMA,
    _OBJECTIVES_THAT_WERE_SET,
)
SCHEMA_VERSION = len(_FORMATS)


class SqliteStore:
    """Implements `router.ports.Store`, and `RolloutStore` and `Outbox` of `router.rollout_ports`.

    Raises `StoreFailed` when the file cannot be opened, read or written.
    """

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
        with self.transaction() as connection:
            endpoints = connection.execute("SELECT name, revision, spec FROM endpoint ORDER BY name").fetchall()
            rows = connection.execute(
                "SELECT endpoint, spec, model_path, model_sha256 FROM deployment ORDER BY endpoint, name"
            ).fetchall()
        try:
            deployments: dict[str, dict[str, DeployedModel]] = {}
            for endpoint, spec, path, sha256 in rows:
                deployed = _deployed(_read(spec, Deployment), path, sha256)
                deployments.setdefault(endpoint, {})[deployed.spec.name] = deployed
            return {
                name: EndpointState(_read(spec, Endpoint), MappingProxyType(deployments.get(name, {})), revision)
                for name, revision, spec in endpoints
            }
        except CrossfadeError as error:
            raise StoreFailed(f"{self._path} holds a spec that this version cannot read: {error}") from error

    def load_gateway(self) -> GatewaySpec:
        with self.transaction() as connection:
            row = connection.execute("SELECT spec FROM gateway").fetchone()
        try:
            return _read(row[0], GatewaySpec) if row else GatewaySpec()
        except CrossfadeError as error:
            raise StoreFailed(f"{self._path} holds a spec that this version cannot read: {error}") from error

    def save(
        self,
        changed: Iterable[EndpointState],
        deleted: Iterable[str],
        records: Collection[Record] = (),
        gateway: GatewaySpec | None = None,
    ) -> None:
        """Raises `Conflict`, and writes nothing, when a stored revision is not one less than the changed one."""
        with self.transaction() as connection:
            for name in deleted:
                connection.execute("DELETE FROM endpoint WHERE name = ?", (name,))
            for state in changed:
                self._save_one(connection, state)
            if gateway is not None:
                connection.execute("INSERT OR REPLACE INTO gateway VALUES (1, ?)", (json.dumps(to_plain(gateway)),))
            append(connection, records)

    def load_replicas(self) -> tuple[Replica, ...]:
        with self.transaction() as connection:
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
        with self.transaction() as connection:
            connection.execute("DELETE FROM replica")
            connection.executemany("INSERT INTO replica VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def load_in_force(self) -> dict[str, Traffic]:
        with self.transaction() as connection:
            rows = connection.execute("SELECT endpoint, traffic FROM in_force").fetchall()
        return {endpoint: Traffic.of(json.loads(traffic)) for endpoint, traffic in rows}

    def save_in_force(self, endpoint: str, traffic: Traffic) -> None:
        """An endpoint that was deleted meanwhile has nothing in force."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO in_force SELECT name, ? FROM endpoint WHERE name = ?",
                (json.dumps(traffic.as_dict()), endpoint),
            )

    def load_rollouts(self) -> tuple[tuple[Rollout, Evidence], ...]:
        with self.transaction() as connection:
            rows = connection.execute("SELECT state, evidence FROM rollout ORDER BY number").fetchall()
        try:
            return tuple(
                (plain.from_plain(Rollout, json.loads(state)), plain.from_plain(Evidence, json.loads(evidence)))
                for state, evidence in rows
            )
        except Invalid as error:
            raise StoreFailed(f"{self._path} holds a rollout that this version cannot read: {error}") from error

    def save_rollout(self, rollout: Rollout, evidence: Evidence, entries: Collection[Announce]) -> None:
        state, seen = json.dumps(plain.to_plain(rollout)), json.dumps(plain.to_plain(evidence))
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO rollout (id, endpoint, state, evidence) SELECT ?, name, ?, ? FROM endpoint WHERE name = ?"
                " ON CONFLICT (id) DO UPDATE SET state = excluded.state, evidence = excluded.evidence",
                (rollout.id, state, seen, rollout.endpoint),
            )
            connection.execute(
                "DELETE FROM rollout WHERE endpoint = ?1 AND number <= ("
                "SELECT number FROM rollout WHERE endpoint = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                (rollout.endpoint, _ROLLOUTS_KEPT),
            )
            for entry in entries:
                text = json.dumps(plain.to_plain(entry))
                added = connection.execute(
                    "INSERT INTO audit (rollout, revision, endpoint, is_page, announcement)"
                    " SELECT ?, ?, name, ?, ? FROM endpoint WHERE name = ? ON CONFLICT (rollout, revision) DO NOTHING",
                    (rollout.id, entry.revision, isinstance(entry, Page), text, rollout.endpoint),
                )
                if added.rowcount:
                    append(connection, (record_of(rollout, entry),))
                    connection.executemany(
                        "INSERT INTO untold (rollout, revision, url) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                        [(rollout.id, entry.revision, url) for url in rollout.policy.notify],
                    )

    def trail(self, endpoint: str, limit: int) -> tuple[Entry, ...]:
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT rollout, is_page, announcement FROM audit WHERE endpoint = ? ORDER BY number DESC LIMIT ?",
                (endpoint, limit),
            ).fetchall()
        return tuple(_entry(rollout, endpoint, is_page, text) for rollout, is_page, text in reversed(rows))

    def untold(self) -> tuple[tuple[str, Entry], ...]:
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT url, rollout, endpoint, is_page, announcement FROM untold JOIN audit USING (rollout, revision)"
                " ORDER BY untold.number"
            ).fetchall()
        return tuple((url, _entry(*columns)) for url, *columns in rows)

    def settle(self, url: str, entry: Entry) -> None:
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM untold WHERE rollout = ? AND revision = ? AND url = ?",
                (entry.rollout_id, entry.what.revision, url),
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
                (name, item.spec.name, json.dumps(to_plain(item.spec)), *_content(item))
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
        if tables and version == SCHEMA_VERSION:
            return
        script = "".join(_FORMATS[version if tables else 0 :])
        stamp = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        self._connection.executescript(f"BEGIN IMMEDIATE;{script}{stamp}COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Raises `StoreFailed`."""
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


_Spec = TypeVar("_Spec", Endpoint, Deployment, GatewaySpec)


def _read(text: str, kind: type[_Spec]) -> _Spec:
    (document,) = read_documents([json.loads(text)])
    content = document.content
    if not isinstance(content, kind):
        raise StoreFailed(f"expected {kind.__name__}, found {type(content).__name__}")
    return content


def _entry(rollout: str, endpoint: str, is_page: int, text: str) -> Entry:
    return Entry(rollout, endpoint, plain.from_plain(Page if is_page else Announce, json.loads(text)))


def _content(deployed: DeployedModel) -> tuple[str, str]:
    """Where the model's content is and its digest; nothing for one that runs elsewhere."""
    return (deployed.model.path, deployed.model.sha256) if isinstance(deployed.model, ResolvedModel) else ("", "")


def _deployed(spec: Deployment, path: str, sha256: str) -> DeployedModel:
    return DeployedModel(spec, ResolvedModel(path, sha256) if isinstance(spec.model, ModelRef) else spec.model)


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        return UnixAddress(text.removeprefix("unix:"))
    if text.startswith("triton:"):
        ip, http_port, grpc_port = text.removeprefix("triton:").rsplit(":", 2)
        return TritonAddress(ip, int(http_port), int(grpc_port))
    ip, _, port = text.rpartition(":")
    return TcpAddress(ip, int(port))
