"""The table and its numbers."""

from benchmarks.report import Row, markdown
from benchmarks.throughput import Pair, Sample


def test_a_missed_bar_stands_out_and_a_row_without_a_bar_has_no_verdict():
    rows = [Row("a", "≥ 5×", "1/s", is_met=False), Row("b", "", "2/s"), Row("c", "0 failed", "0", is_met=True)]
    lines = markdown(rows).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["**no**", "", "yes"]


def turns(*per_second: float, elsewhere: float = 0.0) -> list[Sample]:
    return [Sample(value, 1.0, 1.0, 1.0, 1.0, {}, elsewhere) for value in per_second]


def test_both_ratios_are_given_because_one_bad_round_moves_them_apart():
    assert Pair.of(turns(100, 60, 110), turns(20, 10, 30)).ratios("per_second") == (100 / 20, 5.0)
    assert Pair.of(turns(100, 20, 110), turns(20, 10, 30)).ratios("per_second") == (100 / 20, 110 / 30)


def test_rounds_in_which_either_side_was_disturbed_do_not_count():
    ours = [*turns(100, 100), *turns(9, elsewhere=0.5), *turns(100)]
    theirs = [*turns(20, 20, 20), *turns(1, elsewhere=0.5)]
    pair = Pair.of(ours, theirs)
    assert pair.ratios("per_second") == (5.0, 5.0)
    assert "2 of 4 rounds" in pair.remark


def test_when_nearly_every_round_was_disturbed_all_count_and_the_table_says_so():
    pair = Pair.of([*turns(100), *turns(50, 50, elsewhere=0.5)], turns(10, 10, 10))
    assert len(pair.ours) == 3
    assert "machine busy" in pair.remark


def test_undisturbed_rounds_need_no_remark():
    assert Pair.of(turns(1, 2), turns(1, 2)).remark == ""
