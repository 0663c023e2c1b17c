"""The chain of the audit log: whatever is done to one line shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.audit import GENESIS, Link, Record, first_broken, linked

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

records = st.builds(
    Record,
    at=st.integers(0, 10**6).map(lambda s: NOON + timedelta(seconds=s)),
    actor=st.text(max_size=5),
    action=st.text(max_size=5),
    subject=st.text(max_size=5),
    detail=st.text(max_size=5),
)


def chain(items: list[Record]) -> list[Link]:
    links: list[Link] = []
    for item in items:
        links.append(linked(links[-1] if links else None, item))
    return links


@given(st.lists(records, max_size=8), st.integers(0, 8))
def test_a_chain_that_was_left_alone_is_whole_also_when_looked_at_in_parts(items: list[Record], at: int) -> None:
    links = chain(items)
    assert first_broken(links) is None
    assert first_broken(links[at:], links[at - 1] if 0 < at <= len(links) else None) is None or at > len(links)
    assert [link.number for link in links] == list(range(1, len(links) + 1))
    assert not links or links[0].previous == GENESIS


@given(st.lists(records, min_size=1, max_size=8), st.data())
def test_a_line_that_was_altered_removed_or_swapped_shows(items: list[Record], data: st.DataObject) -> None:
    links = chain(items)
    at = data.draw(st.integers(0, len(links) - 1))
    victim = links[at]
    altered = [*links[:at], replace(victim, record=replace(victim.record, detail=victim.record.detail + "x"))]
    assert (broken := first_broken([*altered, *links[at + 1 :]])) is not None
    assert broken.number == at + 1
    if at < len(links) - 1:
        assert (broken := first_broken([*links[:at], *links[at + 1 :]])) is not None
        assert broken.number == at + 1


def test_whoever_recomputes_one_line_breaks_the_next() -> None:
    links = chain(
        [Record(NOON, "ann", "done", "a"), Record(NOON, "bob", "done", "b"), Record(NOON, "eve", "done", "c")]
    )
    forged = linked(links[0], Record(NOON, "bob", "done", "something else"))
    assert first_broken([links[0], forged, links[2]]).reason == "line 3 does not follow the line before it"  # type: ignore[union-attr]


@pytest.mark.parametrize("field", ["actor", "action", "subject", "detail"])
def test_no_text_moves_unseen_from_one_field_into_the_next(field: str) -> None:
    plain = Record(NOON, "a", "b", "c", "d")
    assert linked(None, plain).hash != linked(None, replace(plain, **{field: '","'})).hash
