"""When to run and how much at once: the batcher's rule beside the simplest one. A simulation (benchmarks/simulated.py).

    python -m benchmarks.policies

The simplest rule runs at once whatever waits, up to 64 rows: Triton's, where no delay is configured. The model is the
wide MLP on one thread. Open loop: for how much load do 99 % of the requests keep an objective of four single runs, and
how many keep it beyond? Closed loop: how much do clients get that wait for their answers, each of them with 0.3 ms to
think, and 0.05 ms of another core for the way there and back, one after the other?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.simulated import (
    WIDE_MLP,
    Closed,
    Open,
    Queue,
    Result,
    WhateverWaits,
    on_and_off,
    our_queue,
    poisson,
    simulate,
)

OBJECTIVE_S = 4 * WIDE_MLP[1]
RATES = (500, 1000, 1500, 2000, 2500, 3000, 4000, 6000)
CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128)
_USUAL_OBJECTIVE_S = 0.05
_INSIDE = 0.99
_SEARCH_STEPS = 12

Arrivals = Callable[[float, float, int], Iterator[float]]
Rule = Callable[[], Queue]


def _ours() -> Queue:
    return our_queue(WIDE_MLP, OBJECTIVE_S)


def _simplest() -> Queue:
    return WhateverWaits(WIDE_MLP)


def open_loop(rule: Rule, arrivals: Arrivals, rate: float, seconds: float = 10.0) -> Result:
    return simulate(rule(), WIDE_MLP, Open(arrivals(rate, seconds, 3)), seconds)


def closed_loop(queue: Queue, clients: int, seconds: float = 4.0) -> Result:
    return simulate(queue, WIDE_MLP, Closed(clients, seconds), seconds)


def highest_rate(rule: Rule, arrivals: Arrivals) -> float:
    """With 99 % of the requests inside the objective."""
    low, high = float(RATES[0]) / 2, float(RATES[-1])
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        holds = open_loop(rule, arrivals, middle).inside(OBJECTIVE_S) >= _INSIDE
        low, high = (middle, high) if holds else (low, middle)
    return low


def main() -> None:
    rules = (("ours", _ours), ("whatever waits", _simplest))
    print(f"open loop, objective {OBJECTIVE_S * 1e3:.1f} ms")
    for kind, arrivals in (("Poisson", poisson), ("100 ms at twice the rate, 100 ms nothing", on_and_off)):
        found = [f"{name} {highest_rate(rule, arrivals):.0f}/s" for name, rule in rules]
        print(f"  {kind}: 99% inside up to {', '.join(found)}")
        for rate in RATES:
            parts = []
            for name, rule in rules:
                result = open_loop(rule, arrivals, rate)
                refused = len(result.refused) / result.offered
                parts.append(f"{name}: goodput {result.goodput(OBJECTIVE_S):5.0f}/s, refused {refused:3.0%}")
            print(f"    {rate:5}/s   {'   '.join(parts)}")
    print("closed loop, no objective set")
    for clients in CLIENTS:
        parts = []
        for name, queue in (("ours", our_queue(WIDE_MLP, _USUAL_OBJECTIVE_S, False)), ("whatever waits", _simplest())):
            result = closed_loop(queue, clients)
            count = len(result.answered)
            parts.append(
                f"{name}: {count / result.seconds:5.0f}/s, {count / result.batches:4.1f} rows a run,"
                f" p50 {result.percentile_s(50) * 1e3:4.1f} ms, p99 {result.percentile_s(99) * 1e3:4.1f} ms"
            )
        print(f"  {clients:4} clients   {'   '.join(parts)}")


if __name__ == "__main__":
    main()
