"""One endpoint's comparison: whom it asks for what, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from router.agreement.comparison import MAX_DIFFERENCES, WANTED_PER_S, Comparison, Heard, Roles
from router.agreement.pairing import PATIENCE_S, SETTLE_S
from router.domain.evidence import Answers
from router.domain.routing import Replica, ReplicaState, UnixAddress
from router.rollout_ports import Pairs
from serving.answers import Answer, Answered, Failed, Form, Key, OutputRecord, Record, Repeat
from serving.sampling import Batch, Order, Sampled

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ROLES = Roles("fraud", "blue", "green")


def replica(name: str, deployment: str, endpoint: str = "fraud", state: ReplicaState = ReplicaState.READY) -> Replica:
    return Replica(name, endpoint, deployment, "g1", UnixAddress(f"/run/{name}"), state)


BLUE, GREEN = replica("b1", "blue"), replica("g1", "green")


def answered(value: int = 0) -> Answered:
    return Answered((OutputRecord("y", "UINT8", (1,), Form.WHOLE, bytes([value])),))


def answer(number: int, value: int = 0) -> Answer:
    return Answer(Key(f"r-{number}", number), answered(value))


@dataclass
class Watched:
    """A comparison and its replicas; `heard` is one round, a second later than the one before."""

    comparison: Comparison = field(default_factory=lambda: Comparison(ROLES, 0.0))
    now_s: float = 0.0
    last: dict[str, int] = field(default_factory=dict)

    def heard(
        self,
        records: Mapping[Replica, list[Record]],
        *,
        silent: tuple[Replica, ...] = (),
        gaps: tuple[Replica, ...] = (),
        age_s: float = 0.0,
        replicas: tuple[Replica, ...] = (BLUE, GREEN),
    ) -> None:
        self.now_s += 1.0
        answers: dict[Replica, Heard | None] = {}
        for one in replicas:
            new = [Sampled(record, age_s) for record in records.get(one, [])]
            self.last[one.id] = self.last.get(one.id, 0) + len(new)
            batch = Batch(self.last[one.id], one in gaps, tuple(new))
            answers[one] = None if one in silent else Heard(batch, self.now_s)
        self.comparison.heard(answers, self.now_s, NOON)

    def pass_time(self, seconds: float, **how: tuple[Replica, ...]) -> None:
        for _ in range(round(seconds)):
            self.heard({}, **how)

    def order(self, of: Replica = BLUE) -> Order:
        return self.comparison.orders([BLUE, GREEN])[of]


def settled() -> Watched:
    watched = Watched()
    watched.pass_time(SETTLE_S + 2)
    return watched


def test_the_live_replicas_of_both_deployments_are_asked_and_nobody_else() -> None:
    draining = replica("b2", "blue", state=ReplicaState.DRAINING)
    others = [
        replica("b3", "blue", state=ReplicaState.LOADING),
        replica("b4", "blue", state=ReplicaState.FAILED),
        replica("x1", "grey"),
        replica("x2", "blue", endpoint="other"),
    ]

    orders = Comparison(ROLES, 0.0).orders([BLUE, GREEN, draining, *others])

    assert set(orders) == {BLUE, GREEN, draining}
    assert [orders[one].has_repeats for one in (BLUE, GREEN, draining)] == [True, False, True]


def test_a_replica_is_asked_for_what_it_has_not_handed_out_yet() -> None:
    watched = Watched()
    assert watched.order().after == 0

    watched.heard({BLUE: [answer(1), answer(2)]})

    assert (watched.order(BLUE).after, watched.order(GREEN).after) == (2, 0)


def test_pairs_and_disagreements_are_counted_over_all_replicas() -> None:
    second = replica("b2", "blue")
    watched = Watched()
    both = (BLUE, second, GREEN)

    watched.heard({BLUE: [answer(1)], GREEN: [answer(2, 9)]}, replicas=both)
    watched.heard({second: [answer(2, 8)], GREEN: [answer(1)]}, replicas=both)

    assert watched.comparison.pairs.answers == Answers(2, 1)


def test_a_pair_that_differs_can_be_looked_at() -> None:
    watched = Watched()

    watched.heard({BLUE: [answer(1, 3)], GREEN: [answer(1, 4)]})
    watched.heard({BLUE: [answer(2, 3)], GREEN: [Answer(Key("r-2", 2), Failed("ModelFailed"))]})

    latest, first = watched.comparison.differences
    assert (first.request_id, first.at, first.reason) == ("r-1", NOON, "y: 3 → 4")
    assert (first.stable, first.candidate) == ({"y": "UINT8 [1] 3"}, {"y": "UINT8 [1] 4"})
    assert latest.reason == "only stable answers, the candidate fails (ModelFailed)"
    assert latest.candidate == {}


def test_only_the_latest_differences_are_kept() -> None:
    watched = Watched()
    for number in range(MAX_DIFFERENCES + 5):
        watched.heard({BLUE: [answer(number, 1)], GREEN: [answer(number, 2)]})

    differences = watched.comparison.differences
    assert len(differences) == MAX_DIFFERENCES
    assert differences[0].request_id == f"r-{MAX_DIFFERENCES + 4}"
    assert watched.comparison.pairs.answers == Answers(MAX_DIFFERENCES + 5, MAX_DIFFERENCES + 5)


def test_stable_s_second_answers_are_its_noise() -> None:
    watched = Watched()

    watched.heard(
        {
            BLUE: [
                Repeat(Key("r-1", 1), answered(1), answered(1)),
                Repeat(Key("r-2", 2), answered(1), answered(2)),
            ]
        }
    )

    assert watched.comparison.pairs.noise == Answers(2, 1)
    assert watched.comparison.pairs.answers == Answers()
    assert watched.comparison.differences == ()


def test_records_from_before_the_comparison_are_not_counted_again() -> None:
    watched = Watched()

    watched.heard({BLUE: [answer(1)], GREEN: [answer(1)]}, age_s=1.5)

    assert watched.comparison.pairs == Pairs()


def test_copies_that_arrive_and_copies_that_do_not() -> None:
    watched = settled()
    watched.heard({BLUE: [answer(1), answer(2)], GREEN: [answer(1)]})
    assert (watched.comparison.pairs.mirrored, watched.comparison.pairs.arrived) == (1, 1)

    watched.pass_time(PATIENCE_S + 1)

    assert (watched.comparison.pairs.mirrored, watched.comparison.pairs.arrived) == (2, 1)


def test_no_copy_is_called_lost_while_a_replica_is_silent_missed_some_or_is_new() -> None:
    new = replica("g2", "green")
    for how in ({"silent": (GREEN,)}, {"gaps": (GREEN,)}, {"replicas": (BLUE, GREEN, new)}, {"replicas": (BLUE,)}):
        watched = settled()
        watched.heard({BLUE: [answer(1)]})
        watched.heard({}, **how)

        watched.pass_time(PATIENCE_S + 2)

        assert watched.comparison.pairs.mirrored == 0, how


def test_heavy_traffic_is_sampled_less_and_light_traffic_more_again() -> None:
    watched = settled()
    assert watched.order().share == 1.0

    many = int(10 * WANTED_PER_S)
    watched.heard({BLUE: [answer(number) for number in range(many)]})
    assert watched.order(BLUE).share == watched.order(GREEN).share == 0.1

    watched.heard({BLUE: [answer(number) for number in range(many, many + int(WANTED_PER_S))]})
    assert watched.order().share == 0.1

    watched.pass_time(60)
    assert watched.order().share == 1.0


def test_records_that_fall_out_lower_the_share_whatever_their_number() -> None:
    watched = settled()
    watched.heard({BLUE: [answer(1)]})

    watched.heard({BLUE: [answer(2)]}, gaps=(BLUE,))

    assert watched.order().share == 0.5


def test_what_was_counted_before_stays_counted() -> None:
    before = Pairs(Answers(10, 1), Answers(5, 0), 20, 19)
    watched = Watched(Comparison(ROLES, 0.0, before))

    watched.heard({BLUE: [answer(1)], GREEN: [answer(1)]})

    assert watched.comparison.pairs == Pairs(Answers(11, 1), Answers(5, 0), 20, 19)


def test_after_the_end_nothing_that_waited_is_counted() -> None:
    watched = settled()
    watched.heard({BLUE: [answer(1), answer(2)], GREEN: [answer(1)]})
    before = watched.comparison.pairs

    watched.comparison.end()
    watched.pass_time(PATIENCE_S + 2)

    assert watched.comparison.pairs == before
