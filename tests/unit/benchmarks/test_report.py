"""The table and its numbers."""

from xml.etree import ElementTree

import pytest

from benchmarks import plot
from benchmarks.report import Row, markdown, page, plot_of, replaced
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


RESULTS = {
    "measured_at": "2030-01-02T03:04:05+00:00",
    "machine": {"cores": 2, "processor": "CPU", "memory_gib": 24, "kernel": "6.1", "python": "3.11.7"},
    "versions": {"ray": "2.60.0"},
    "settings": {"rounds": 3},
    "rows": [
        {
            "title": "tiny MLP, beside Other <1>",
            "bar": "",
            "crossfade": "200/s",
            "peer": "100/s",
            "ratio": "2×",
            "is_met": None,
            "details": {"duel": {"title": "Other <1>", "per_second": [200.0, 100.0], "cpu_us": [50.0, 90.0]}},
        }
    ],
}


def test_the_results_replace_only_what_stands_between_the_markers_of_their_name():
    text = "a\n<!-- compare -->\nold\n<!-- /compare -->\nb\n<!-- gateway -->\nkept\n<!-- /gateway -->\n"
    new = replaced(text, "compare", page("compare", RESULTS, "compare.svg"))
    assert new.startswith("a\n<!-- compare -->\nMeasured 2030-01-02")
    assert "old" not in new
    assert "| tiny MLP, beside Other <1> |  | 200/s | 100/s | 2× |  |" in new
    assert new.endswith("<!-- /compare -->\nb\n<!-- gateway -->\nkept\n<!-- /gateway -->\n")
    assert replaced(new, "compare", page("compare", RESULTS, "compare.svg")) == new


def test_a_page_without_the_markers_is_an_error():
    with pytest.raises(LookupError, match="compare"):
        replaced("a page", "compare", "content")


def test_the_plot_is_well_formed_and_its_bars_are_in_proportion():
    root = ElementTree.fromstring(plot_of(RESULTS))
    svg = "{http://www.w3.org/2000/svg}"
    texts = ["".join(text.itertext()) for text in root.iter(f"{svg}text")]
    assert [name for name in texts if name in ("Crossfade", "Other <1>")] == ["Crossfade", "Other <1>"]
    ours_speed, ours_cpu, other_speed, other_cpu = [float(rect.attrib["width"]) for rect in root.iter(f"{svg}rect")][1:]
    assert ours_speed == 2 * other_speed
    assert ours_cpu / other_cpu == pytest.approx(50 / 90, rel=0.01)


def test_results_without_the_tiny_model_have_no_plot():
    assert plot_of({**RESULTS, "rows": []}) is None


def test_a_bar_far_beyond_the_others_is_cut_and_says_so():
    servers = [plot.Bar("a", 100.0, 10.0, True), plot.Bar("b", 90.0, 12.0, False), plot.Bar("c", 1.0, 900.0, False)]
    drawn = plot.bars("title", servers)
    assert "900 (cut)" in drawn
    assert drawn.count("(cut)") == 1
