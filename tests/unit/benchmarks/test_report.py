"""The table and its numbers."""

from benchmarks.report import Row, markdown
from benchmarks.throughput import Sample, ratios


def test_a_missed_bar_stands_out_and_a_row_without_a_bar_has_no_verdict():
    rows = [Row("a", "≥ 5×", "1/s", is_met=False), Row("b", "", "2/s"), Row("c", "0 failed", "0", is_met=True)]
    lines = markdown(rows).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["**no**", "", "yes"]


def test_both_ratios_are_given_because_one_bad_round_moves_them_apart():
    def turns(*per_second: float) -> list[Sample]:
        return [Sample(value, 1.0, 1.0, 1.0, 1.0, {}, 0.0) for value in per_second]

    samples = {"ours": turns(100, 60, 110), "theirs": turns(20, 10, 30)}
    assert ratios(samples, "ours", "theirs", "per_second") == (100 / 20, 5.0)
    samples = {"ours": turns(100, 20, 110), "theirs": turns(20, 10, 30)}
    assert ratios(samples, "ours", "theirs", "per_second") == (100 / 20, 110 / 30)
