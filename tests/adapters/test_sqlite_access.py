"""Tokens, quotas and the audit log in the real file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.sqlite_access import SqliteAccess
from adapters.sqlite_store import SqliteStore
from router.domain.access import Role, Token
from router.domain.audit import Record, first_broken
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import Conflict, StoreFailed
from router.domain.quota import Quota
from tests.fakes import MemoryAccess

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
DONE = Record(NOON, "ann", "endpoint_created", "e", "in words")
TOKEN = Token("ci", Role.OPERATOR, ("fraud",), "a" * 64, NOON, NOON + timedelta(days=1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path / "state.sqlite")
    yield made
    made.close()


@pytest.fixture(params=["memory", "sqlite"])
def access(request: pytest.FixtureRequest, store: SqliteStore) -> MemoryAccess | SqliteAccess:
    return MemoryAccess() if request.param == "memory" else SqliteAccess(store)


def test_tokens_and_quotas_are_kept_and_each_change_leaves_a_line(access: MemoryAccess | SqliteAccess) -> None:
    access.add_token(TOKEN, DONE)
    access.save_quota("fraud", Quota(replicas=2), DONE)
    access.save_quota("fraud", Quota(cpus=1.5), DONE)
    assert access.load_tokens() == (TOKEN,)
    assert access.load_quotas() == {"fraud": Quota(cpus=1.5)}
    access.delete_token("ci", DONE)
    access.delete_quota("fraud", DONE)
    assert (access.load_tokens(), access.load_quotas()) == ((), {})
    assert len(access.lines(0, 100)) == 5


def test_lines_follow_each_other_in_pages_and_from_the_end(access: MemoryAccess | SqliteAccess) -> None:
    access.add([DONE, DONE])
    access.add([DONE])
    links = access.lines(0, 100)
    assert [link.number for link in links] == [1, 2, 3]
    assert first_broken(links) is None
    assert access.lines(1, 1) == (links[1],)
    assert access.last_lines(2) == links[1:]


def test_a_change_and_its_line_are_written_together_or_not_at_all(store: SqliteStore) -> None:
    store.save([EndpointState(Endpoint("e"), revision=1)], [], [DONE])
    with pytest.raises(Conflict):
        store.save([EndpointState(Endpoint("e"), revision=7)], [], [DONE])
    assert len(SqliteAccess(store).lines(0, 10)) == 1


def test_the_database_itself_refuses_to_alter_or_remove_a_line(store: SqliteStore) -> None:
    SqliteAccess(store).add([DONE])
    for statement in ("UPDATE chain SET actor = 'eve'", "DELETE FROM chain"):
        with pytest.raises(StoreFailed, match="append-only"), store.transaction() as connection:
            connection.execute(statement)


def test_a_line_that_was_altered_behind_our_back_shows(store: SqliteStore, tmp_path: Path) -> None:
    SqliteAccess(store).add([DONE, DONE, DONE])
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as other:
        other.executescript("DROP TRIGGER chain_is_not_changed; UPDATE chain SET actor = 'eve' WHERE number = 2;")
    broken = first_broken(SqliteAccess(store).lines(0, 10))
    assert broken is not None
    assert broken.reason == "line 2 is not what was written"
