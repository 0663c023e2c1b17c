"""What was compared, as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Mapping

from router.rollout_ports import Pairs


def agreement_metrics(pairs: Mapping[str, Pairs]) -> str:
    """Counters by endpoint; they begin anew with the control plane. Names need no escaping. Empty without pairs."""
    counts = {endpoint: _counts(of) for endpoint, of in pairs.items()}
    lines: list[str] = []
    for name, help_text in _FAMILIES.items() if counts else ():
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} counter"]
        lines += [f'{name}{{endpoint="{endpoint}"}} {of[name]}' for endpoint, of in counts.items()]
    return "".join(f"{line}\n" for line in lines)


_FAMILIES = {
    "crossfade_rollout_pairs_total": "Answers of stable and candidate to the same request that were compared.",
    "crossfade_rollout_disagreements_total": "Those of them that differ.",
    "crossfade_rollout_noise_pairs_total": "Two answers of stable to the same request that were compared.",
    "crossfade_rollout_noise_disagreements_total": "Those of them that differ.",
    "crossfade_rollout_mirrored_total": "Sampled requests that were to be copied to the candidate.",
    "crossfade_rollout_arrived_total": "Those of them whose copy the candidate received.",
}


def _counts(pairs: Pairs) -> dict[str, int]:
    """In the order of the families."""
    answers, noise = pairs.answers, pairs.noise
    values = (
        *(answers.pairs, answers.disagreements, noise.pairs, noise.disagreements),
        *(pairs.mirrored, pairs.arrived),
    )
    return dict(zip(_FAMILIES, values, strict=True))
