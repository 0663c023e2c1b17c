"""The ways in which one peer is set up: none is best for everything. Imports nothing: Ray takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """`batch_wait_s`: how long a batch is held open. `max_ongoing_requests`: how many HAProxy lets into a replica."""

    batch_wait_s: float
    max_ongoing_requests: int
    has_access_log: bool


EAGER, WAITING = "eager", "waiting"
# The name is also the route. Ray Serve's default of 5 ongoing requests caps a batch at 5 rows, too.
RAY_SERVE_VARIANTS = {
    EAGER: Variant(0.0, 1000, has_access_log=False),  # the shortest latency
    WAITING: Variant(0.002, 1000, has_access_log=False),  # fuller batches
    "untuned": Variant(0.002, 5, has_access_log=True),
}

# As `pip install` leaves it: `@serve.batch` waits 10 ms.
RAY_SERVE_DEFAULT = "default"
ALL_RAY_SERVE_VARIANTS = {**RAY_SERVE_VARIANTS, RAY_SERVE_DEFAULT: Variant(0.01, 5, has_access_log=True)}

# The event loop below grpc.aio: the standard library's, as in gRPC's own documentation and examples, or uvloop.
PLAIN_LOOP, UVLOOP = "plain", "uvloop"
GRPC_LOOPS = {PLAIN_LOOP: "asyncio", UVLOOP: "uvloop"}
