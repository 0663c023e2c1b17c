"""From measurements to verdicts: who is compared with whom, and what passes."""

import math

import numpy as np
import pytest

from benchmarks.arrivals import Arrivals
from benchmarks.equality import Agreement
from benchmarks.goodput import Answers
from benchmarks.peers.table import TRITON_PEER
from benchmarks.slo import Found, Overload
from benchmarks.throughput import Pair, Sample
from benchmarks.verdicts import agreement_row, bare_row, idle_row, overload_rows, rate_row, tail_row, tiny_rows
from benchmarks.versus import Duel


def pair(
    ours: float, theirs: float, our_cpu: float = 1.0, their_cpu: float = 1.0, our_ms: float = 1, their_ms: float = 1
) -> Pair:
    def taken(per_second: float, cpu_us: float, ms: float) -> list[Sample]:
        return [Sample(per_second, ms * 1000, ms * 1000, cpu_us, cpu_us, {}, 0.0)] * 3

    return Pair.of(taken(ours, our_cpu, our_ms), taken(theirs, their_cpu, their_ms))


def test_the_bars_take_the_fastest_and_the_leanest_python_peer_which_need_not_be_the_same():
    duels = [
        Duel("fast", True, pair(600, 100, our_cpu=10, their_cpu=100), None),
        Duel("lean", True, pair(600, 50, our_cpu=10, their_cpu=39), None),
        Duel("in Rust", False, pair(600, 500, our_cpu=10, their_cpu=5), None),
    ]
    throughput, cpu = tiny_rows(duels)
    assert throughput.peer.startswith("fast")
    assert throughput.is_met
    assert cpu.peer.startswith("lean")
    assert cpu.is_met is False


def test_triton_has_bars_of_its_own():
    duel = Duel(TRITON_PEER.title, False, pair(400, 100), pair(1, 1, our_ms=0.2, their_ms=0.3))
    assert [row.is_met for row in tiny_rows([duel])] == [True, True]
    slower = Duel(TRITON_PEER.title, False, pair(399, 100), pair(1, 1, our_ms=0.3, their_ms=0.3))
    assert [row.is_met for row in tiny_rows([slower])] == [False, False]


@pytest.mark.parametrize(("ours", "is_met"), [(85, True), (84, False)])
def test_a_share_of_the_bare_loop_is_judged(ours: float, is_met: bool):
    assert bare_row("wide", pair(ours, 100), 0.85).is_met is is_met
    assert bare_row("detection", pair(ours, 100), None).is_met is None


def test_a_tail_may_be_as_long_as_the_other_within_what_two_equal_runs_differ():
    assert tail_row("p99", pair(1, 1, our_ms=104, their_ms=100)).is_met
    assert not tail_row("p99", pair(1, 1, our_ms=106, their_ms=100)).is_met


def test_a_peer_that_held_no_rate_is_beaten_by_any_rate_but_not_by_none():
    def met(ours: float, theirs: float) -> bool | None:
        return rate_row(Arrivals.POISSON, 0.02, Found(ours), "peer", Found(theirs), 2.0).is_met

    assert met(200, 100)
    assert not met(199, 100)
    assert met(200, 0)
    assert not met(0, 0)


def overloaded(refused_s: float = 0.01, lost: int = 0, memory_mib: list[float] | None = None) -> Overload:
    """Half of 1,000 requests a second are answered in 10 ms for 10 s, the others refused; then 2 s of calm."""
    times = np.arange(0, 12, 0.001)
    refused = (np.arange(len(times)) % 2 == 1) & (times < 10)
    latency = np.where(refused, refused_s, 0.01)
    status = np.where(refused, 429, 200)
    status[:lost] = 0
    return Overload(Answers(times, np.zeros(len(times)), latency, status), 10.0, 0.02, memory_mib or [100.0] * 10)


def test_overload_passes_when_goodput_stays_refusals_are_quick_and_memory_does_not_grow():
    assert [row.is_met for row in overload_rows(overloaded(), Found(rate=500, goodput=520))] == [True] * 4


def test_each_of_overloads_promises_can_be_broken_alone():
    def met(run: Overload, goodput: float = 500) -> list[bool | None]:
        return [row.is_met for row in overload_rows(run, Found(rate=500, goodput=goodput))]

    assert met(overloaded(), goodput=600) == [False, True, True, True]
    assert met(overloaded(refused_s=0.03)) == [True, False, True, True]
    assert met(overloaded(lost=1)) == [True, False, True, True]
    assert met(overloaded(memory_mib=[100.0, 120.0, 150.0, 200.0, 250.0, 300.0])) == [True, True, False, True]


def test_one_score_outside_the_tolerance_is_too_many():
    assert agreement_row("m", Agreement(10, 10, 0.0, 2.0), 0.0).is_met
    assert not agreement_row("m", Agreement(10, 9, 1e-9, 2.0), 0.0).is_met
    assert agreement_row("m", Agreement(10, 0, 1e-6, 2.0), 1e-5).is_met


def test_an_idle_replica_is_judged_alone_and_one_that_is_not_there_does_not_pass():
    assert idle_row({"ServeReplica": 0.009, "raylet": 0.5}).is_met
    assert not idle_row({"ServeReplica": 0.011}).is_met
    assert not idle_row({"raylet": math.nan}).is_met
