"""Keys of endpoints: made, replaced and revoked, by which no request that shows a valid one is ever refused.

A key is shown once, in the reply to whoever asked for it. Kept, and told to Envoy, is its hash alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from router.admin_ports import Changes
from router.commits import Commits
from router.domain.audit import Record
from router.domain.callers import ApiKey, KeySlot
from router.domain.errors import Conflict, NotFound
from router.ports import Acknowledged, Outcome

# Known, so that scanners find keys that were published by mistake. router/xds/access.py knows the length.
KEY_PREFIX = "cfk_"

_CONFIRM_TIMEOUT_S = 5.0


class KeyStore(Protocol):
    """Durable: each change is one transaction with its line in the audit log. Implemented by adapters/sqlite_keys.py.

    Raises `StoreFailed`.
    """

    def load(self) -> dict[str, tuple[ApiKey, ...]]:
        """Endpoint → its keys."""

    def put(self, endpoint: str, key: ApiKey, record: Record) -> None:
        """In place of the one in the same slot."""

    def remove(self, endpoint: str, slot: KeySlot, record: Record) -> None: ...


class Confirming(Protocol):
    """Knows what Envoy has acknowledged. Implemented by router/xds/server.py."""

    async def applied(self, endpoint: str, timeout_s: float) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key, for whoever asked. `is_in_force`: every Envoy takes it, and no more the one that it replaces."""

    key: str = field(repr=False)
    kept: ApiKey
    is_in_force: bool


def new_key() -> str:
    """47 characters, 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """Belongs to one event loop. `by`: who asks."""

    def __init__(self, commits: Commits, store: KeyStore, changes: Changes, data_plane: Confirming) -> None:
        self._commits = commits
        self._desired = commits.desired
        self._store = store
        self._changes = changes
        self._data_plane = data_plane
        for endpoint, keys in store.load().items():
            self._desired.publish_keys(endpoint, keys)

    def of(self, endpoint: str) -> tuple[ApiKey, ...]:
        """Primary first. Raises `NotFound`."""
        self._desired.state(endpoint)
        return self._desired.keys(endpoint)

    async def create(self, endpoint: str, by: str) -> Issued:
        """A key in the first free slot. Raises `NotFound`, or `Conflict` when both are taken."""
        async with self._commits.held():
            taken = {key.slot for key in self.of(endpoint)}
            slot = next((slot for slot in KeySlot if slot not in taken), None)
            if slot is None:
                raise Conflict(f"endpoint {endpoint!r} has both its keys: regenerate or revoke one of them")
            return await self._put(endpoint, slot, "key_created", by)

    async def regenerate(self, endpoint: str, slot: KeySlot, by: str) -> Issued:
        """A new key in place of the old one, which stops at once. Raises `NotFound`."""
        async with self._commits.held():
            self._check(endpoint, slot)
            return await self._put(endpoint, slot, "key_regenerated", by)

    async def revoke(self, endpoint: str, slot: KeySlot, by: str) -> bool:
        """Whether every Envoy has acknowledged that the key is gone. Raises `NotFound`."""
        async with self._commits.held():
            self._check(endpoint, slot)
            record = self._record("key_revoked", endpoint, slot, by)
            rest = [key for key in self.of(endpoint) if key.slot is not slot]
            return await self._publish(endpoint, rest, record, partial(self._store.remove, endpoint, slot, record))

    async def _put(self, endpoint: str, slot: KeySlot, action: str, by: str) -> Issued:
        key, record = new_key(), self._record(action, endpoint, slot, by)
        kept = ApiKey(slot, hashed(key), record.at, by)
        keys = [*(old for old in self.of(endpoint) if old.slot is not slot), kept]
        is_in_force = await self._publish(endpoint, keys, record, partial(self._store.put, endpoint, kept, record))
        return Issued(key, kept, is_in_force)

    async def _publish(self, endpoint: str, keys: Iterable[ApiKey], record: Record, save: Callable[[], None]) -> bool:
        """Durable first, then told; and waited for. It runs to its end also when whoever asked has gone."""
        return await asyncio.shield(asyncio.create_task(self._published(endpoint, tuple(keys), record, save)))

    async def _published(
        self, endpoint: str, keys: tuple[ApiKey, ...], record: Record, save: Callable[[], None]
    ) -> bool:
        await asyncio.to_thread(save)
        self._desired.publish_keys(endpoint, keys)
        self._commits.events.publish(record.action, f"{record.detail} by {record.actor}", endpoint=endpoint)
        self._changes.endpoint_changed(endpoint)
        return await self._data_plane.applied(endpoint, _CONFIRM_TIMEOUT_S) == Acknowledged()

    def _record(self, action: str, endpoint: str, slot: KeySlot, by: str) -> Record:
        what = action.removeprefix("key_")
        return Record(self._commits.events.now(), by, action, endpoint, f"{slot} key of {endpoint} {what}")

    def _check(self, endpoint: str, slot: KeySlot) -> None:
        slots = tuple(key.slot for key in self.of(endpoint))
        if slot not in slots:
            raise NotFound(f"key of endpoint {endpoint!r}", slot.value, tuple(one.value for one in slots))
