"""How often one may fail to log in, and how much is told of it."""

from __future__ import annotations

from datetime import timedelta

from router.access import FailedLogins
from tests.fakes import NOON

WINDOW = timedelta(minutes=1)


def waits(failures: FailedLogins, *sources: str) -> list[bool]:
    return [failures.note(source, NOON)[0] > 0 for source in sources]


def test_the_eleventh_failure_of_a_minute_waits_and_other_sources_do_not() -> None:
    failures = FailedLogins()
    assert waits(failures, *["10.0.0.7"] * 11) == [False] * 10 + [True]
    assert waits(failures, "10.0.0.8") == [False]
    assert failures.note("10.0.0.7", NOON + WINDOW) == (0, True)


def test_the_addresses_of_one_ipv6_network_are_one_source() -> None:
    failures = FailedLogins()
    assert waits(failures, *(f"2001:db8::{number:x}" for number in range(11))) == [False] * 10 + [True]
    assert waits(failures, "2001:db8:0:1::1", "fe80::1%eth0") == [False, False]


def test_ipv4_addresses_are_told_apart_also_when_they_come_as_ipv6() -> None:
    failures = FailedLogins()
    assert waits(failures, *(f"::ffff:10.0.0.{number}" for number in range(20))) == [False] * 20


def test_the_audit_log_is_told_of_a_hundred_sources_a_minute_at_most() -> None:
    failures = FailedLogins()
    told = [failures.note(f"10.0.{number // 250}.{number % 250}", NOON)[1] for number in range(2000)]
    assert sum(told) == 100
    assert failures.note("10.9.9.9", NOON + WINDOW) == (0, True)
