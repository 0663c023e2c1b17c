"""The audit log: who changed what, and a chain of hashes that shows when a line was altered, removed or slipped in.

The chain cannot show that its end was cut off: whoever must know that notes the last hash elsewhere now and then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

GENESIS = "0" * 64  # what the first line follows


@dataclass(frozen=True, slots=True)
class Record:
    """Something that was done. `action` is a past-tense word such as deployment_changed; `subject` what it was done to.

    `actor`: who asked, and from where when that was not this machine; "crossfade" for what it decided by itself.
    `detail`: one line for people. Never holds a secret.
    """

    at: datetime
    actor: str
    action: str
    subject: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A record in its place. `number` counts from 1 without gaps; `previous` is the hash of the one before."""

    number: int
    record: Record
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The first line that is not what was written there."""

    number: int
    reason: str


def linked(last: Link | None, record: Record) -> Link:
    """The record as the line that follows `last`."""
    number, previous = (1, GENESIS) if last is None else (last.number + 1, last.hash)
    return Link(number, record, previous, _hash(number, previous, record))


def first_broken(links: Iterable[Link], last: Link | None = None) -> Broken | None:
    """Look at lines in their order. `last`: the one before the first of them, when they are not all."""
    for link in links:
        wanted = linked(last, link.record)
        if link.number != wanted.number:
            return Broken(wanted.number, f"line {wanted.number} is missing: line {link.number} follows instead")
        if link.previous != wanted.previous:
            return Broken(link.number, f"line {link.number} does not follow the line before it")
        if link.hash != wanted.hash:
            return Broken(link.number, f"line {link.number} is not what was written")
        last = link
    return None


def _hash(number: int, previous: str, record: Record) -> str:
    """SHA-256 over one JSON list: nothing can move from one field into the next."""
    fields = [number, previous, record.at.isoformat(), record.actor, record.action, record.subject, record.detail]
    return hashlib.sha256(json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()
