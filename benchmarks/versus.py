"""Crossfade against each peer on one model, closed loop. A peer is started, takes turns with it and is ended.

Nobody else runs meanwhile: ten servers at rest are not at rest. A peer that cannot be installed, does not start,
answers wrongly or fails under load becomes a row that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.arena import OURS, Arena
from benchmarks.bare import BareLoop
from benchmarks.environments import NotInstallable
from benchmarks.payloads import Exchange, Payload
from benchmarks.peers.table import PEERS, TRITON_PEER, Kind, Peer
from benchmarks.peers.variants import EAGER, WAITING
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.sections import SERVER_FAILURES, first_line, keep_logs
from benchmarks.servers import Server, default_ray_serve, exchange_with, peer_server, ray_serve
from benchmarks.throughput import Contender, Pair, in_turns, numbers

CONNECTIONS = 32
PATIENCE_PER_ROUND_S = 2.0
RAY_FAST_PATH, RAY_DEFAULT = "Ray Serve + HAProxy", "Ray Serve, default"


@dataclass(frozen=True, slots=True)
class Opponent:
    """Somebody to run beside Crossfade. `is_python`: counts as a Python peer in the bars."""

    title: str
    start: Callable[[Path, Path, Payload], AbstractContextManager[Server]]
    exchange: Callable[[Payload], Exchange]
    is_python: bool


@dataclass(frozen=True, slots=True)
class Duel:
    """What one opponent, in one of its variants, and Crossfade did in turns. `calm`: at one connection."""

    title: str
    is_python: bool
    busy: Pair
    calm: Pair | None

    @property
    def throughput_ratio(self) -> float:
        """The lower one of the ratio of medians and the median of ratios."""
        return min(self.busy.ratios("per_second"))

    @property
    def cpu_share(self) -> float:
        """Our CPU per request as a share of theirs: the larger one of the two."""
        return max(self.busy.ratios("path_cpu_us"))


@dataclass(frozen=True, slots=True)
class Turns:
    """How long everybody gets load. `calm_s` 0: not at one connection."""

    rounds: int
    turn_s: int
    calm_s: int


def opponents() -> list[Opponent]:
    """The strongest first: a quick run takes only so many."""

    def of(peer: Peer) -> Opponent:
        return Opponent(peer.title, partial(peer_server, peer), partial(exchange_with, peer), peer.kind is Kind.PYTHON)

    tuned = partial(ray_serve, variants=(EAGER, WAITING))
    return [
        of(TRITON_PEER),
        Opponent(RAY_FAST_PATH, tuned, _v2, is_python=True),
        *(of(peer) for peer in PEERS if peer is not TRITON_PEER),
        Opponent(RAY_DEFAULT, default_ray_serve, _v2, is_python=True),
    ]


def duels(where: Arena, against: Sequence[Opponent], turns: Turns, output: Path) -> tuple[list[Duel], list[Row]]:
    """One duel for each variant of each opponent, and a row for each opponent that failed."""
    fought: list[Duel] = []
    failed: list[Row] = []
    for number, opponent in enumerate(against):
        folder = where.folder / f"p{number}"
        folder.mkdir()
        say(f"{opponent.title}")
        try:
            fought += _fight(where, opponent, turns, folder)
        except SERVER_FAILURES as error:
            failed.append(failure_row(where.workload.name, opponent, error, folder, output))
    return fought, failed


def failure_row(what: str, opponent: Opponent, error: Exception, folder: Path, output: Path) -> Row:
    """Says it at once and in full, keeps the logs, and leaves the first line for the table."""
    say(f"  {opponent.title} failed: {error}")
    keep_logs(folder, output / "logs" / opponent.title.replace(" ", "-"))
    word = "not installable" if isinstance(error, NotInstallable) else "failed"
    return Row(f"{what}, beside {opponent.title}", "", "", f"{word}: {first_line(error)}")


def duel_row(what: str, duel: Duel) -> Row:
    """One line of the table for one opponent."""
    turns: dict[str, Any] = {"busy": numbers({OURS: duel.busy.ours, duel.title: duel.busy.theirs})}
    if duel.calm is not None:
        turns["calm"] = numbers({OURS: duel.calm.ours, duel.title: duel.calm.theirs})
    return Row(
        title=f"{what}, beside {duel.title}",
        bar="",
        crossfade=_figures(duel, ours=True),
        peer=_figures(duel, ours=False),
        ratio=f"{duel.throughput_ratio:.2f}× the requests, {duel.cpu_share:.2f}× the CPU{duel.busy.remark}",
        details={"duel": _summary(duel), "turns": turns},
    )


def bare_pair(bare: BareLoop, ours: Contender, turns: Turns) -> Pair:
    """Crossfade and the bare loop in turns."""
    floor = Contender("bare ORT loop", bare, frozenset(), bare.run)
    samples = in_turns([ours, floor], turns.rounds, turns.turn_s, PATIENCE_PER_ROUND_S)
    return Pair.of(samples[ours.name], samples[floor.name])


def _fight(where: Arena, opponent: Opponent, turns: Turns, folder: Path) -> list[Duel]:
    exchange = opponent.exchange(where.payload)
    with opponent.start(folder, where.workload.model, where.payload) as server:

        def all_with(connections: int) -> list[Contender]:
            theirs = [
                where.http(_titled(opponent, variant, server), server, url, exchange, connections)
                for variant, url in server.urls.items()
            ]
            return [where.ours(connections), *theirs]

        busy = in_turns(all_with(CONNECTIONS), turns.rounds, turns.turn_s, PATIENCE_PER_ROUND_S)
        calm = in_turns(all_with(1), turns.rounds, turns.calm_s, PATIENCE_PER_ROUND_S) if turns.calm_s else {}
    return [
        Duel(
            title,
            opponent.is_python,
            Pair.of(busy[OURS], busy[title]),
            Pair.of(calm[OURS], calm[title]) if calm else None,
        )
        for title in busy
        if title != OURS
    ]


def _titled(opponent: Opponent, variant: str, server: Server) -> str:
    return opponent.title if len(server.urls) == 1 else f"{opponent.title}, {variant}"


def _figures(duel: Duel, ours: bool) -> str:
    side = 0 if ours else 1
    per_second, cpu_us = duel.busy.middles("per_second")[side], duel.busy.middles("path_cpu_us")[side]
    alone = "" if duel.calm is None else f", alone {duel.calm.middles('p50_us')[side] / 1000:.2f} ms"
    return f"{per_second:,.0f}/s, {cpu_us:,.0f} µs CPU{alone}"


def _summary(duel: Duel) -> dict[str, Any]:
    """For the plot: both sides' medians."""
    return {
        "title": duel.title,
        "per_second": [round(value, 1) for value in duel.busy.middles("per_second")],
        "cpu_us": [round(value, 1) for value in duel.busy.middles("path_cpu_us")],
        "alone_p50_us": None if duel.calm is None else [round(value, 1) for value in duel.calm.middles("p50_us")],
    }


def _v2(payload: Payload) -> Exchange:
    return payload.json
