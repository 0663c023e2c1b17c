"""A window of the week, such as `Mon-Fri 08:00-17:00 Europe/Berlin`: when something may begin by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from router.domain.errors import Invalid

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
WINDOW_PATTERN = (
    r"^(?:((?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?:[-,](?:Mon|Tue|Wed|Thu|Fri|Sat|Sun))*) +)?"
    r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00))"
    r"(?: +([A-Za-z][A-Za-z0-9_+/-]{0,63}))?$"
)
_PATTERN = re.compile(WINDOW_PATTERN)
_EXAMPLE = "write it like 'Mon-Fri 08:00-17:00 Europe/Berlin'; without days: every day, without a zone: UTC"
_MINUTES_OF_DAY = 24 * 60
_EVERY_DAY = frozenset(range(7))


@dataclass(frozen=True, slots=True)
class Window:
    """Open on `days` (0 is Monday) from `begins` until before `ends`, in minutes of the local day of `zone`.

    `ends` <= `begins`: until so late on the next day. A change of the clocks makes a window longer or shorter.
    """

    days: frozenset[int]
    begins: int
    ends: int
    zone: tzinfo = UTC

    def __post_init__(self) -> None:
        if not self.days or not self.days <= _EVERY_DAY:
            raise Invalid("watch.window", "has no day of the week", _EXAMPLE)
        if not (0 <= self.begins < _MINUTES_OF_DAY and 0 <= self.ends <= _MINUTES_OF_DAY):
            raise Invalid("watch.window", "has a time that no day has", _EXAMPLE)
        if self.begins == self.ends:
            raise Invalid("watch.window", "ends when it begins", "for the whole day write 00:00-24:00")

    @classmethod
    def parse(cls, text: str, zone_of: Callable[[str], tzinfo | None]) -> Window:
        """`zone_of` gives None for a zone that nobody knows. Raises `Invalid`."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise Invalid("watch.window", f"{text[:80]!r} is not a window", _EXAMPLE)
        days, *clock, zone_name = match.groups()
        begins, ends, midnight = clock[:2], clock[2:4], clock[4:]
        zone: tzinfo | None = UTC
        if zone_name and zone_name != "UTC":
            zone = zone_of(zone_name)
        if zone is None:
            hint = "name one of the IANA database, such as Europe/Berlin; the machine needs its tzdata for that"
            raise Invalid("watch.window", f"the time zone {zone_name!r} is not known here", hint)
        return cls(
            _days(days) if days else _EVERY_DAY, _minutes(*begins), _minutes(*(midnight if midnight[0] else ends)), zone
        )

    def is_open(self, now: datetime) -> bool:
        local = now.astimezone(self.zone)
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.begins < self.ends:
            return today in self.days and self.begins <= minute < self.ends
        yesterday = (today - 1) % 7
        return (today in self.days and minute >= self.begins) or (yesterday in self.days and minute < self.ends)

    def opens_at(self, now: datetime) -> datetime:
        """`now` while it is open, else when it opens next."""
        if self.is_open(now):
            return now
        first = now.astimezone(self.zone).date()
        days = (first + timedelta(days=ahead) for ahead in range(9))  # the hour of today's may be over
        moments = (self._opening(day) for day in days if day.weekday() in self.days)
        return next(moment for moment in moments if moment > now)

    def _opening(self, day: date) -> datetime:
        return datetime.combine(day, time(*divmod(self.begins, 60)), self.zone).astimezone(UTC)

    def __str__(self) -> str:
        """As a spec has it."""
        days = "" if self.days == _EVERY_DAY else f"{','.join(_runs(self.days))} "
        return f"{days}{_clock(self.begins)}-{_clock(self.ends)} {self.zone}"


def _days(text: str) -> frozenset[int]:
    """`Mon-Wed,Fri`; `Fri-Mon` goes over the week's end."""
    days: set[int] = set()
    for part in text.split(","):
        first, *rest = (DAYS.index(word) for word in part.split("-"))
        if len(rest) > 1:
            raise Invalid("watch.window", f"{part!r} is not a range of days", _EXAMPLE)
        last = rest[0] if rest else first
        days |= {(first + ahead) % 7 for ahead in range((last - first) % 7 + 1)}
    return frozenset(days)


def _runs(days: frozenset[int]) -> list[str]:
    """Neighbours joined: the fewest words that name exactly these days, within one week."""
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return [DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs]


def _minutes(hours: str, minutes: str) -> int:
    return int(hours) * 60 + int(minutes)


def _clock(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    return f"{hours:02}:{rest:02}"
