import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.errors import Invalid
from router.domain.traffic import Mirror, Traffic, traffic_to_apply

NAMES = ("blue", "green", "red", "white")


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    """Legal traffic over up to four deployments, or none."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    if not names:
        return Traffic()
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(names) - 1, max_size=len(names) - 1)))
    edges = [0, *cuts, 100]
    return Traffic.of({name: edges[i + 1] - edges[i] for i, name in enumerate(names)})


def test_percents_that_sum_to_100_are_traffic() -> None:
    traffic = Traffic.of({"green": 10, "blue": 90, "red": 0})
    assert traffic.as_dict() == {"blue": 90, "green": 10}
    assert traffic.percent("red") == 0
    assert traffic.deployments == {"blue", "green"}


def test_equal_traffic_is_equal_data_whatever_the_order() -> None:
    assert Traffic.of({"a": 40, "b": 60}) == Traffic.of({"b": 60, "a": 40, "c": 0})


@pytest.mark.parametrize(
    ("percents", "key"),
    [
        ({"blue": 90}, "traffic"),
        ({"blue": 90, "green": 20}, "traffic"),
        ({"blue": 101, "green": -1}, "traffic.blue"),
        ({"blue": True, "green": 99}, "traffic.blue"),
        ({"blue": 50.0, "green": 50}, "traffic.blue"),
        ({"no spaces": 100}, "traffic"),
    ],
)
def test_anything_else_is_refused_naming_the_key(percents: dict[str, int], key: str) -> None:
    with pytest.raises(Invalid) as caught:
        Traffic.of(percents)
    assert caught.value.key == key
    assert caught.value.hint


def test_no_traffic_at_all_is_legal_and_empty() -> None:
    assert Traffic.of({"blue": 0}).is_empty


@given(traffics(), st.sets(st.sampled_from(NAMES)))
def test_restricting_keeps_the_sum_and_only_the_named(traffic: Traffic, keep: set[str]) -> None:
    restricted = traffic.restricted_to(keep)
    assert restricted.deployments <= keep & traffic.deployments
    assert sum(percent for _, percent in restricted.shares) in (0, 100)
    assert restricted.is_empty == (not keep & traffic.deployments)


def test_restricting_keeps_the_proportions() -> None:
    traffic = Traffic.of({"blue": 60, "green": 30, "red": 10})
    assert traffic.restricted_to({"blue", "green"}).as_dict() == {"blue": 67, "green": 33}


@pytest.mark.parametrize("percent", [0, 101, -1, True])
def test_a_mirror_needs_a_percent_above_zero(percent: int) -> None:
    with pytest.raises(Invalid, match=r"mirror_traffic\.green"):
        Mirror("green", percent)


BLUE = Traffic.of({"blue": 100})
GREEN = Traffic.of({"green": 100})
SPLIT = Traffic.of({"blue": 90, "green": 10})


@pytest.mark.parametrize(
    ("asked", "in_force", "ready", "expected"),
    [
        (SPLIT, BLUE, {"blue", "green"}, SPLIT),  # everybody is there: what was asked for
        (SPLIT, BLUE, {"blue"}, BLUE),  # green still loads: nothing moves
        (SPLIT, SPLIT, {"blue"}, BLUE),  # green died: its share goes to the living
        (SPLIT, Traffic(), {"blue"}, BLUE),  # a restart while green loads
        (SPLIT, SPLIT, set(), SPLIT),  # nobody: callers hear "not ready" from the real routes
        (GREEN, BLUE, set(), BLUE),  # green never came up, blue is away for a moment: blue gets its traffic back
        (GREEN, BLUE, {"blue"}, BLUE),
        (GREEN, SPLIT, {"blue"}, BLUE),
        (Traffic(), SPLIT, {"blue"}, Traffic()),  # nobody is to get traffic
    ],
)
def test_traffic_moves_only_onto_who_can_answer(
    asked: Traffic, in_force: Traffic, ready: set[str], expected: Traffic
) -> None:
    assert traffic_to_apply(asked, in_force, frozenset(ready)) == expected


@given(traffics(), traffics(), st.sets(st.sampled_from(NAMES)))
def test_while_somebody_asked_for_is_ready_only_the_ready_get_traffic(
    asked: Traffic, in_force: Traffic, ready: set[str]
) -> None:
    applied = traffic_to_apply(asked, in_force, frozenset(ready))
    if asked.deployments & ready:
        assert applied.deployments <= ready
