"""More load than the model can do: how much of what is answered is still of use. Simulated (benchmarks/simulated.py).

    python -m benchmarks.overload

Requests come as a Poisson process, or in bursts, at multiples of the highest rate that the model can do. Prints
goodput: answers within the objective, per second, as a share of that highest rate. `bound` where the user has set the
objective, `usual` where it is only the default, which refuses nobody before the queue runs full.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.simulated import MAGIKA, WIDE_MLP, Open, bursts, capacity, our_queue, poisson, simulate

LOADS = (0.5, 0.8, 0.9, 1.0, 1.2, 2.0, 3.0)


def main() -> None:
    seconds = 10.0
    for name, latency_s, objective_s in (
        ("wide MLP", WIDE_MLP, 0.05),
        ("wide MLP", WIDE_MLP, 4 * WIDE_MLP[1]),
        ("magika", MAGIKA, 0.05),
    ):
        highest = capacity(latency_s)
        print(f"{name}: {highest:.0f} rows/s at most, objective {objective_s * 1e3:.1f} ms, {seconds:.0f} s")
        for kind, make in (("poisson", poisson), ("bursts of 32", bursts)):
            for load in LOADS:
                for is_binding in (True, False):
                    arrivals: Iterator[float] = make(load * highest, seconds, 7)
                    queue = our_queue(latency_s, objective_s, is_binding)
                    result = simulate(queue, latency_s, Open(arrivals), seconds)
                    late = sum(waited_s > 0 for _, waited_s in result.refused)
                    print(
                        f"  {kind:12} {load:4.1f}x {'bound' if is_binding else 'usual'}"
                        f"  goodput {result.goodput(objective_s) / highest:4.0%}"
                        f"  answered {len(result.answered) / result.offered:4.0%}"
                        f"  p50 {result.percentile_s(50) * 1e3:7.1f} ms  p99 {result.percentile_s(99) * 1e3:7.1f} ms"
                        f"  refused after waiting {late:4}  waiting {result.most_waiting:4} at most"
                    )


if __name__ == "__main__":
    main()
