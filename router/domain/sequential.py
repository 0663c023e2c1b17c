"""Statistics that may be looked at after every request and stay valid: tests by betting, and bounds that hold for ever.

*Test.* Somebody bets, block after block, that the candidate is worse than stable. A block shows a number x in [0, 1]
whose mean is at most e when the candidate is not worse; the stake g in [0, 1] turns the wealth W into
W (1 + g (x/e - 1)), which cannot grow on average then, whatever x's distribution and however the requests inside the
block hang together. So W is an e-process: it ever reaches 1/α with probability at most α (Ville's inequality), at
whatever moment one looks and stops. A large W is evidence; a small one is none for the contrary.
(Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, arXiv 2010.09686.)

*What x is.* Two games are played, and harm is proven when both say so.
- At once: with m failures in the block, k of them on the candidate, x = k/m, and e = the candidate's share of the
  block's requests, as observed. Given m and both request counts, equal failure rates make k hypergeometric with mean
  m e, so e is exact: the configured weight would not be, because mirrors, retries and several proxies move the share.
  Routing does not look at outcomes, so the counts are exogenous. An incident that hits both sides moves m and not x.
  (Conditioning on m: Lindon & Malek, Anytime-valid inference for multinomial count data, arXiv 2011.03567. Their Beta
  prior is replaced by the stakes below, which bet in one direction only and mean the same at every weight.)
- By the past: x = k/n, the candidate's failure rate in the block, and e = an upper bound of stable's mean rate in the
  blocks before. Where each deployment has bursts of its own, now this one and now that, k/m is larger on average than
  e, since it is near 1 as often as near 0; k/n is not. It alone would blame the candidate for what hits both sides.

*Bursts.* Failures with one cause are one observation. x does not grow with m, a block lasts longer than a burst does,
and no block multiplies the wealth by more than `1 + MAX_GAIN`, so several blocks must agree. Before a bound is taken of
stable's counts they are divided by the design effect: how much more failures vary from block to block than independent
ones would (Kish, Survey Sampling, 1965). The larger one of the two sides counts: a candidate that fails in bursts shows
that stable's quiet so far may be luck, and one that fails steadily shows no such effect.

*Stakes.* A candidate whose odds to be the one that fails are r times the expected ones has alternative mean
a = r e / (r e + 1 - e); the stake (a - e)/(1 - e) is the best one against it when m = 1. Nobody knows r, so the capital
is split over `ODDS`. An average of e-processes is one.

*When it began.* A long healthy past must not pay for a failing present, so part of the capital enters at every change
of weight: `ENTERS` of what is left, so all parts sum to 1 at most, whatever the number of steps. The first part
multiplies over all weights, the last sees the present weight alone.

*Bounds.* Not finding harm proves nothing, so whoever promotes needs an upper bound. For 0/1 outcomes with conditional
means p_i and any s > 0, exp(-s K - (e^-s - 1) Σ p_i) and exp(s K - (e^s - 1) Σ p_i) are supermartingales, so with
probability 1 - α and for all n at once the mean rate p = Σ p_i / n has
    p <= (s K + ln(1/α)) / (n (1 - e^-s))      and      p >= (s K - ln(1/α)) / (n (e^s - 1)).
The best of `SLOPES` is taken, each at α/len(SLOPES). The rate may drift; these bounds hold for its mean.
(Howard, Ramdas, McAuliffe & Sekhon, Time-uniform Chernoff bounds via nonnegative supermartingales, arXiv 1808.03204.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ODDS = (1.5, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
SLOPES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0)
MAX_GAIN = 7.0
ENTERS = 0.15

_SLOPES = tuple((s, -math.expm1(-s), math.expm1(s)) for s in SLOPES)
_LARGEST = 1e200  # wealth beyond any threshold, and far from overflow


@dataclass(frozen=True, slots=True)
class Tally:
    """`hits` of `of` requests had the property that is counted."""

    of: float = 0
    hits: float = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.of + other.of, self.hits + other.hits)

    @property
    def rate(self) -> float:
        return self.hits / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True)
class Wealth:
    """What the bets came to, in one account for each of `ODDS`. Nothing is at stake before the first `started`."""

    accounts: tuple[float, ...] = (0.0,) * len(ODDS)
    starts: int = 0

    @property
    def value(self) -> float:
        """The e-value: it ever reaches 1/α with probability at most α when the candidate is not worse."""
        return sum(self.accounts) / len(self.accounts)

    def started(self) -> Wealth:
        """The next part of the capital enters."""
        fresh = ENTERS * (1 - ENTERS) ** self.starts
        return Wealth(tuple(account + fresh for account in self.accounts), self.starts + 1)

    def after(self, seen: float, expected: float) -> Wealth:
        """The wealth after a block showed `seen` in [0, 1] where at most `expected` was to be expected on average."""
        if not 0 < expected < 1:
            return self  # nothing to bet on
        surprise = seen / expected - 1
        return Wealth(
            tuple(
                min(_LARGEST, account * (1 + min(MAX_GAIN, _stake(odds, expected) * surprise)))
                for account, odds in zip(self.accounts, ODDS, strict=True)
            ),
            self.starts,
        )


def _stake(odds: float, expected: float) -> float:
    return expected * (odds - 1) / (odds * expected + 1 - expected)


@dataclass(frozen=True, slots=True)
class Record:
    """Tallies of many blocks, summed up. `square` is the sum of hits²/of, which tells how much they vary."""

    blocks: int = 0
    tally: Tally = Tally()
    square: float = 0.0

    def after(self, block: Tally) -> Record:
        if not block.of:
            return self
        return Record(self.blocks + 1, self.tally + block, self.square + block.hits**2 / block.of)

    @property
    def design_effect(self) -> float:
        """The variance from block to block over that of independent hits; at least 1."""
        if self.blocks < 2 or not self.tally.hits:
            return 1.0
        variance = (self.square - self.tally.hits * self.tally.rate) / (self.blocks - 1)
        return max(1.0, variance / self.tally.rate)

    def thinned(self, design_effect: float) -> Tally:
        """As many independent observations as tell as much."""
        return Tally(self.tally.of / design_effect, self.tally.hits / design_effect)


def upper_bound(tally: Tally, alpha: float) -> float:
    """The rate is at most this, at every moment of a run, with probability 1 - alpha. 1 when nothing is known."""
    if not tally.of:
        return 1.0
    budget = math.log(len(SLOPES) / alpha)
    return min(1.0, *((s * tally.hits + budget) / (tally.of * drop) for s, drop, _ in _SLOPES))


def lower_bound(tally: Tally, alpha: float) -> float:
    """The rate is at least this, at every moment of a run, with probability 1 - alpha. 0 when nothing is known."""
    if not tally.of:
        return 0.0
    budget = math.log(len(SLOPES) / alpha)
    return max(0.0, *((s * tally.hits - budget) / (tally.of * rise) for s, _, rise in _SLOPES))
