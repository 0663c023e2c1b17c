from router.agreement.metrics import agreement_metrics
from router.domain.evidence import Answers
from router.rollout_ports import Pairs


def test_what_was_compared_is_told_by_endpoint() -> None:
    text = agreement_metrics({"fraud": Pairs(Answers(7, 1), Answers(6, 2), 5, 4), "other": Pairs()})

    samples = [line for line in text.splitlines() if line.startswith("crossfade_") and "fraud" in line]
    assert samples == [
        'crossfade_rollout_pairs_total{endpoint="fraud"} 7',
        'crossfade_rollout_disagreements_total{endpoint="fraud"} 1',
        'crossfade_rollout_noise_pairs_total{endpoint="fraud"} 6',
        'crossfade_rollout_noise_disagreements_total{endpoint="fraud"} 2',
        'crossfade_rollout_mirrored_total{endpoint="fraud"} 5',
        'crossfade_rollout_arrived_total{endpoint="fraud"} 4',
    ]
    assert text.count("# TYPE ") == 6
    assert text.count('endpoint="other"') == 6


def test_nothing_is_told_when_nothing_was_compared() -> None:
    assert agreement_metrics({}) == ""
