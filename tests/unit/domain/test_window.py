"""Windows of the week: what is read, when they are open, what is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.errors import Invalid
from router.domain.window import Window

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Auckland")


def window(text: str) -> Window:
    return Window.parse(text, ZoneInfo)


def at(day: int, hours: int, minutes: int = 0) -> datetime:
    return MONDAY + timedelta(days=day, hours=hours, minutes=minutes)


def test_a_working_week_in_a_zone_follows_that_zone_s_clock() -> None:
    week = window("Mon-Fri 08:00-17:00 Europe/Berlin")
    assert not week.is_open(at(0, 6, 59))
    assert week.is_open(at(0, 7))
    assert week.is_open(at(4, 15, 59))
    assert not week.is_open(at(4, 16))
    assert week.opens_at(at(4, 16)) == at(7, 7)
    assert week.opens_at(at(1, 9)) == at(1, 9)
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert week.is_open(summer.replace(hour=6))
    assert not week.is_open(summer.replace(hour=15))


def test_a_window_that_goes_past_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = window("Fri 22:00-04:00")
    assert night.is_open(at(4, 23))
    assert night.is_open(at(5, 3, 59))
    assert not night.is_open(at(5, 4))
    assert not night.is_open(at(4, 3))
    assert night.opens_at(at(5, 4)) == at(11, 22)


def test_days_may_be_listed_and_go_over_the_end_of_the_week() -> None:
    assert window("Sat-Mon,Wed 00:00-24:00").days == {5, 6, 0, 2}
    assert window("10:00-12:00").days == set(range(7))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8-17", "is not a window"),
        ("Mon-Fri", "is not a window"),
        ("Mo 08:00-17:00", "is not a window"),
        ("08:00-25:00", "is not a window"),
        ("24:00-08:00", "is not a window"),
        ("08:00-08:00", "ends when it begins"),
        ("Mon-Wed-Fri 08:00-17:00", "is not a range of days"),
        ("08:00-17:00 Nowhere/Land", "is not known here"),
    ],
)
def test_what_is_no_window_is_refused_with_a_hint(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        Window.parse(text, lambda _: None)
    assert refused.value.hint


windows = st.builds(
    lambda days, begins, length, zone: Window(days, begins, (begins + length) % 1440, ZoneInfo(zone)),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sampled_from(ZONES[1:]),
)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


@settings(deadline=None)
@given(windows)
def test_what_is_written_reads_as_the_same(some: Window) -> None:
    assert window(str(some)) == some


@settings(deadline=None)
@given(windows, moments)
def test_a_window_opens_within_eight_days_and_never_in_the_past(some: Window, now: datetime) -> None:
    opens = some.opens_at(now)
    assert now <= opens <= now + timedelta(days=8, hours=1)
    assert (opens == now) == some.is_open(now) or some.is_open(opens)
