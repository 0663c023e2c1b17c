"""The SQLite file itself: damage, foreign files, newer formats, a full disk, and a process that is killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from adapters.sqlite_store import SCHEMA_VERSION, SqliteStore
from router.domain.deployment_settings import Batching
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Conflict, StoreFailed

# Saves revision after revision; prints a revision when `save` has returned for it. Revision n has n % 7 deployments.
WRITER = """
import sys
from types import MappingProxyType
from adapters.sqlite_store import SqliteStore
from pathlib import Path
from router.domain.deployment import DeployedModel, Deployment
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.model_ref import ModelRef, ResolvedModel

store = SqliteStore(Path(sys.argv[1]))
revision = max((state.revision for state in store.load().values()), default=0)
while True:
    revision += 1
    names = [f"d{number}" for number in range(revision % 7)]
    model = ResolvedModel("/m", "a" * 64)
    made = {name: DeployedModel(Deployment(name, "e", ModelRef("file", "/m")), model) for name in names}
    store.save([EndpointState(Endpoint("e"), MappingProxyType(made), revision)], [])
    print(revision, flush=True)
"""


def test_what_was_saved_survives_kill_9_and_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    acknowledged = 0
    for round_number in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(5 + 11 * round_number):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        writer.wait()
        writer.stdout.close()
        store = SqliteStore(path)
        state = store.load()["e"]
        store.close()
        # The save that was under way when the signal came may be there or not, but never in part.
        assert acknowledged <= state.revision <= acknowledged + 1
        assert len(state.deployments) == state.revision % 7


def test_a_second_open_sees_what_the_first_wrote(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    one, two = SqliteStore(path), SqliteStore(path)
    one.save([EndpointState(Endpoint("e"), revision=1)], [])
    assert two.load()["e"].revision == 1
    with pytest.raises(Conflict):
        two.save([EndpointState(Endpoint("e"), revision=1)], [])
    one.close()
    two.close()


def test_it_may_be_used_from_several_threads(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.sqlite")
    errors: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for revision in range(1, 11):
                store.save([EndpointState(Endpoint(name), revision=revision)], [])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(f"e{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {state.revision for state in store.load().values()} == {10}
    store.close()


def test_a_file_that_is_no_database_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"this is not a database, " * 100)
    with pytest.raises(StoreFailed, match=r"state\.sqlite cannot be used: file is not a database .*backup"):
        SqliteStore(path)


def test_a_damaged_page_is_found_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    store.save([EndpointState(Endpoint(f"e{number}"), revision=1) for number in range(200)], [])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreFailed, match=r"state\.sqlite (is damaged|cannot be used).*backup"):
        SqliteStore(path)


def test_the_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreFailed, match="newer Crossfade"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmark (url TEXT)")
    connection.close()
    with pytest.raises(StoreFailed, match="another program"):
        SqliteStore(path)


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="check that the folder exists"):
        SqliteStore(tmp_path / "nowhere" / "state.sqlite")


def test_a_full_disk_is_an_error_and_the_state_before_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    store.save([EndpointState(Endpoint("e"), revision=1)], [])
    with store.transaction() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFailed, match="free some disk space"):
        store.save([EndpointState(Endpoint(f"e{number}"), revision=1) for number in range(500)], [])
    assert list(store.load()) == ["e"]
    store.save([EndpointState(Endpoint("e"), revision=2)], [])
    store.close()


def test_a_stored_spec_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    with store.transaction() as connection:
        connection.execute('INSERT INTO endpoint VALUES (\'e\', 1, \'{"kind": "Endpoint", "name": "e", "x": 1}\')')
    with pytest.raises(StoreFailed, match="x: is not a key here"):
        store.load()
    store.close()


VERSION_1 = """
CREATE TABLE endpoint (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, spec TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE deployment (
    endpoint TEXT NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    spec TEXT NOT NULL,
    model_path TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    PRIMARY KEY (endpoint, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE in_force (
    endpoint TEXT PRIMARY KEY REFERENCES endpoint (name) ON DELETE CASCADE, traffic TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE replica (
    id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, deployment TEXT NOT NULL, generation TEXT NOT NULL,
    address TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO endpoint VALUES ('e', 3, '{"kind": "Endpoint", "name": "e"}');
PRAGMA application_id = 0x43664164;
PRAGMA user_version = 1;
"""


# What a file of version 2 has beside that.
VERSION_2 = """
CREATE TABLE rollout (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    endpoint TEXT NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    state TEXT NOT NULL, evidence TEXT NOT NULL
) STRICT;
CREATE INDEX rollout_of_endpoint ON rollout (endpoint, number);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY, rollout TEXT NOT NULL, revision INTEGER NOT NULL,
    endpoint TEXT NOT NULL REFERENCES endpoint (name) ON DELETE CASCADE,
    is_page INTEGER NOT NULL, announcement TEXT NOT NULL, UNIQUE (rollout, revision)
) STRICT;
CREATE INDEX audit_of_endpoint ON audit (endpoint, number);
INSERT INTO audit (rollout, revision, endpoint, is_page, announcement) VALUES ('r1', 4, 'e', 0, '{
    "revision": 4, "at": "2026-01-02T12:00:00+00:00", "by": "ann", "old_phase": "progressing", "phase": "paused",
    "message": "paused by ann"
}');
PRAGMA user_version = 2;
"""

# What a file of version 3 has beside that.
VERSION_3 = """
CREATE TABLE token (name TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE quota (team TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE chain (
    number INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
    detail TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE TRIGGER chain_is_not_changed BEFORE UPDATE ON chain
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER chain_is_not_cut BEFORE DELETE ON chain
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
PRAGMA user_version = 3;
"""


@pytest.mark.parametrize(
    ("script", "announcements"),
    [(VERSION_1, 0), (VERSION_1 + VERSION_2, 1), (VERSION_1 + VERSION_2 + VERSION_3, 1)],
)
def test_a_file_of_an_earlier_version_is_brought_up_to_date_and_keeps_what_it_holds(
    tmp_path: Path, script: str, announcements: int
) -> None:
    path = tmp_path / "state.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(script)
    for _ in range(2):  # the second time, it is up to date already
        store = SqliteStore(path)
        assert store.load() == {"e": EndpointState(Endpoint("e"), revision=3)}
        assert store.load_rollouts() == ()
        assert [entry.what.message for entry in store.trail("e", 9)] == ["paused by ann"] * announcements
        assert store.untold() == ()  # nobody is told again of what happened before
        store.close()
    with closing(sqlite3.connect(path)) as new:
        assert new.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_an_objective_that_an_earlier_version_wrote_as_the_default_is_none_that_was_set(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(VERSION_1)
        for name, objective_ms in (("blue", 50), ("green", 20)):
            batching = {"max_batch_size": 64, "latency_slo_ms": objective_ms}
            spec = {"kind": "Deployment", "name": name, "endpoint": "e", "model": "file:/m.onnx", "batching": batching}
            row = ("e", name, json.dumps(spec), "/m.onnx", "a" * 64)
            old.execute("INSERT INTO deployment VALUES (?, ?, ?, ?, ?)", row)
        old.commit()
    for _ in range(2):
        store = SqliteStore(path)
        deployments = store.load()["e"].deployments
        store.close()
        assert {name: it.spec.batching.latency_slo_ms for name, it in deployments.items()} == {
            "blue": None,
            "green": 20,
        }


def test_an_objective_that_a_triton_of_ours_never_heeded_is_dropped_and_the_deployment_stays(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    batching = {"max_batch_size": 32, "latency_slo_ms": 20}
    common = {"kind": "Deployment", "endpoint": "e", "backend": "triton", "batching": batching}
    bridge = {"mode": "bridge", "servers": [{"host": "10.0.0.7"}], "model": "m"}
    with closing(sqlite3.connect(path)) as old:
        old.executescript(VERSION_1)
        for name, own in (
            ("managed", {"model": "file:/m.onnx", "triton": {"mode": "managed"}}),
            ("bridge", {"triton": bridge}),
        ):
            row = ("e", name, json.dumps(common | own | {"name": name}), "/m.onnx", "a" * 64)
            old.execute("INSERT INTO deployment VALUES (?, ?, ?, ?, ?)", row)
        old.commit()
    store = SqliteStore(path)
    deployments = store.load()["e"].deployments
    store.close()
    assert deployments["managed"].spec.batching == Batching(max_batch_size=32)
    assert deployments["bridge"].spec.batching == Batching(max_batch_size=32, latency_slo_ms=20)
