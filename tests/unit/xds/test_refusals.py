"""Listeners that an Envoy refuses: asked again with patience, and told once."""

from router.xds.refusals import Refusals

IN_USE, NO_ADDRESS = "cannot bind '10.0.0.5:9000': Address already in use", "cannot bind: no such address"


def test_each_reason_is_news_once_also_when_several_come_in_turn() -> None:
    refusals = Refusals()

    assert [refusals.is_news(reason) for reason in (IN_USE, NO_ADDRESS, IN_USE, NO_ADDRESS)] == [True, True] + 2 * [
        False
    ]


def test_the_pauses_grow_to_a_minute() -> None:
    refusals = Refusals()

    assert [refusals.next_pause_s() for _ in range(7)] == [5, 10, 20, 40, 60, 60, 60]


def test_a_change_makes_everything_news_and_begins_with_the_short_pause() -> None:
    refusals = Refusals()
    refusals.is_news(IN_USE)
    refusals.next_pause_s()

    refusals.forget()

    assert refusals.is_news(IN_USE)
    assert refusals.next_pause_s() == 5
