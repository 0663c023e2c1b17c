"""What the probes of a weight change say about it."""

from benchmarks.weights import Change, change_from, weight_row


def test_it_is_in_force_with_the_first_request_after_the_last_that_went_the_old_way():
    seen = [(10.001, "blue"), (10.003, "green"), (10.004, "blue"), (10.006, "green"), (10.009, "green")]
    change = change_from(called_s=10.0, acknowledged_s=10.008, seen=seen, old="blue")
    assert round(change.in_force_ms, 3) == 6.0
    assert round(change.acknowledged_ms, 3) == 8.0
    assert not change.is_late


def test_it_is_late_when_a_request_went_the_old_way_after_the_acknowledgement():
    seen = [(10.001, "blue"), (10.009, "blue"), (10.010, "green")]
    assert change_from(called_s=10.0, acknowledged_s=10.008, seen=seen, old="blue").is_late


def test_one_late_change_misses_the_bar_however_fast_it_is():
    prompt = Change(acknowledged_ms=5.0, in_force_ms=4.0, is_late=False)
    late = Change(acknowledged_ms=5.0, in_force_ms=6.0, is_late=True)
    assert weight_row([prompt] * 10, 1, 100, {}).is_met
    assert not weight_row([prompt] * 9 + [late], 1, 100, {}).is_met
