"""What is known of watched references, in the database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.sqlite_store import SqliteStore
from adapters.sqlite_watches import SqliteWatches
from router.domain.endpoint import Endpoint, EndpointState
from router.domain.errors import StoreFailed
from router.domain.watching import Barred, Consent, Known, Ready, Watched

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
NEXT = Known("r2", "b" * 64, "models:/fraud/2", "2")
WATCHED = Watched(
    "fraud",
    "models:/fraud@champion",
    Known("r1", "a" * 64),
    NOON,
    Ready(NEXT, NOON, NOON, Consent("ann", True), "no name is free"),
    barred=(Barred(Known("r0"), "rolled back", NOON),),
    failures=2,
    trouble="429",
)


def test_what_is_saved_is_there_after_a_restart_and_goes_with_its_endpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    store.save([EndpointState(Endpoint("fraud"), revision=1)], [])
    SqliteWatches(store).save_watched(WATCHED)
    store.close()
    store = SqliteStore(path)
    watches = SqliteWatches(store)
    assert watches.load_watched() == (WATCHED,)
    store.save([], ["fraud"])
    assert watches.load_watched() == ()
    watches.save_watched(WATCHED)
    assert watches.load_watched() == (), "the endpoint is gone"
    store.close()


def test_what_a_newer_version_wrote_is_refused_in_words(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.sqlite")
    watches = SqliteWatches(store)
    store.save([EndpointState(Endpoint("fraud"), revision=1)], [])
    with store.transaction() as connection:
        connection.execute("INSERT INTO watched VALUES ('fraud', '{\"new\": 1}')")
    with pytest.raises(StoreFailed, match="cannot read"):
        watches.load_watched()
    store.close()
