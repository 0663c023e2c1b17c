"""How much of the machine went to others: a benchmark on a busy machine measures its neighbours."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from benchmarks.processes import Child

QUIET_BELOW = 0.08  # of all cores
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU seconds of the whole machine, and those of the servers, the load generators and this process."""

    at_s: float
    machine_s: float
    own_s: float

    def elsewhere_since(self, before: CpuUse) -> float:
        """The share of all cores that somebody else used, 0 to 1."""
        others_s = (self.machine_s - before.machine_s) - (self.own_s - before.own_s)
        return max(0.0, others_s / ((self.at_s - before.at_s) * (os.cpu_count() or 1)))


def cpu_use(servers: Iterable[Child]) -> CpuUse:
    times = psutil.cpu_times()
    busy_s = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice  # guests count as user, too
    own_s = sum(sum(server.cpu_s().values()) for server in servers)
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        own_s += used.ru_utime + used.ru_stime
    return CpuUse(time.monotonic(), busy_s, own_s)


class Patience:
    """What disturbed turns may cost: `left_s` seconds in all, for waiting and for taking turns again."""

    def __init__(self, servers: Iterable[Child], left_s: float) -> None:
        self._servers = list(servers)
        self._left_s = left_s

    @property
    def is_used_up(self) -> bool:
        return self._left_s <= 0

    def spend(self, seconds: float) -> None:
        self._left_s -= seconds

    def wait_until_quiet(self) -> None:
        """Return when the neighbours rest, or when the patience is used up."""
        while not self.is_used_up:
            before = cpu_use(self._servers)
            time.sleep(_LOOK_S)
            self.spend(_LOOK_S)
            if cpu_use(self._servers).elsewhere_since(before) < QUIET_BELOW:
                return
