"""Which requests leave a record of their answer in a replica, and the ring that holds the records. Pure: no clock.

Only mirrored requests do: the gateway marks the live request and its copy alike (`x-crossfade-mirrored`). Of those a
share is chosen by a hash of what both have in common, so that both sides choose the same ones.

Sampling is off until it is ordered. While it is off it costs a request the test of one attribute, which does not show:
7.2 µs with and without. While it is on (`python -m benchmarks.sampling`, one output of ten scores): 0.1 µs a request
that is not mirrored, 0.4 µs a mirrored one that is not chosen, 4 µs one that is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from serving.answers import Key, Record, record_bytes

MAX_RECORDS = 1024
MAX_BYTES = 2 * 1024 * 1024

# This request is sent to the candidate too, or is the copy. Set by Envoy, never accepted from clients.
_MIRRORED = b"x-crossfade-mirrored"
_REQUEST_ID = b"x-request-id"
_HASHES = 2**32
# Ids alone would choose all requests of a client that gives them the same id, or none.
_CHOSEN_BY_TAIL_BYTES = 64
_MAX_ID_BYTES = 128
# Bodies are told apart by up to so many bytes of theirs, about 0.1 ms.
_FINGERPRINT_BYTES = 128 * 1024
_PIECES = 4


@dataclass(frozen=True, slots=True)
class Order:
    """What to sample, from now on and for `lease_s` seconds; and which records to hand out: those after number `after`.

    `share`: of the mirrored requests, 0 to 1. `has_repeats`: answer some of them twice.
    """

    share: float
    lease_s: float
    after: int
    has_repeats: bool

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 < self.lease_s <= 3600 and self.after >= 0):
            raise ValueError(f"not an order for samples: {self}")


@dataclass(frozen=True, slots=True)
class Sampled:
    """A record, and when it was made: `age_s` seconds before it was handed out."""

    record: Record
    age_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Records, oldest first. `last`: the number of the latest. `has_gap`: some fell out before they were asked for."""

    last: int
    has_gap: bool
    records: tuple[Sampled, ...]


class Sampling:
    """`is_on` is what the scoring path looks at."""

    __slots__ = ("_bytes", "_last", "_limit", "_ring", "has_repeats", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self.has_repeats = False
        self._limit = 0
        self._ring: deque[tuple[float, int, Record]] = deque()  # (made at, size, record)
        self._bytes = 0
        self._last = 0

    def renew(self, order: Order, now_s: float) -> Batch:
        """Sample as ordered. Who ordered before has its records handed out; the ring keeps them until they fall out."""
        self.is_on = True
        self.has_repeats = order.has_repeats
        self._limit = round(order.share * _HASHES)
        first = self._last - len(self._ring) + 1
        skipped = max(0, order.after + 1 - first)
        records = tuple(
            Sampled(record, now_s - made_s) for at, (made_s, _, record) in enumerate(self._ring) if at >= skipped
        )
        return Batch(self._last, order.after + 1 < first, records)

    def end(self) -> None:
        """The lease is over: forget everything but the numbering."""
        self.is_on = self.has_repeats = False
        self._ring.clear()
        self._bytes = 0

    def chosen(self, headers: Mapping[bytes, bytes], body: bytes) -> Key | None:
        """The key of a request that is to leave a record. Header names are lower case."""
        if _MIRRORED not in headers:
            return None
        request_id = headers.get(_REQUEST_ID, b"")
        seed = crc32(request_id)
        if not request_id or crc32(body[-_CHOSEN_BY_TAIL_BYTES:], seed) >= self._limit:
            return None
        return Key(request_id[:_MAX_ID_BYTES].decode("latin-1"), _fingerprint(body, seed))

    def keep(self, record: Record, now_s: float) -> None:
        """Older records fall out when there is no room."""
        if not self.is_on:
            return
        size = record_bytes(record)
        self._ring.append((now_s, size, record))
        self._bytes += size
        self._last += 1
        while len(self._ring) > MAX_RECORDS or self._bytes > MAX_BYTES:
            self._bytes -= self._ring.popleft()[1]


def _fingerprint(body: bytes, seed: int) -> int:
    """Of the id, the length and the body, or of evenly spread pieces of a body that is long."""
    seed = crc32(len(body).to_bytes(8, "little"), seed)
    if len(body) <= _FINGERPRINT_BYTES:
        return crc32(body, seed)
    size = _FINGERPRINT_BYTES // _PIECES
    view = memoryview(body)
    for piece in range(_PIECES):
        start = (len(body) - size) * piece // (_PIECES - 1)
        seed = crc32(view[start : start + size], seed)
    return seed
