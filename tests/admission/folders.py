"""Model folders for these tests: files written as they are told, the tree that lists them, and the gate itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from adapters.candidate_files import CandidateFiles
from adapters.model_signatures import KeyVerifier
from adapters.onnx.trial_process import TrialProcess
from adapters.triton_config import TritonConfigs
from router.domain.deployment import Deployment
from router.domain.model_ref import ModelRef
from router.domain.model_tree import ModelTree, TreeFile
from router.models.admission import AdmissionRules, Eyes, ModelAdmission
from router.models.ports import Admitted, Candidate
from router.models.trial import TrialLimits

GREEN = Deployment("green", "fraud", ModelRef.parse("file:/models/fraud"))

# Generous against a busy machine, and short where a model must be killed for its time.
QUICK = TrialLimits(wall_s=120, cpu_s=3)


def tree_of(folder: Path) -> ModelTree:
    """Of what lies in the folder now."""
    return ModelTree.of(
        TreeFile(
            path.relative_to(folder).as_posix(), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in folder.rglob("*")
        if path.is_file()
    )


def written(folder: Path, files: Mapping[str, bytes]) -> Candidate:
    """A candidate of these files, which are written into `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Candidate(str(folder), tree_of(folder), "file:/models/fraud", GREEN)


def gate(rules: AdmissionRules | None = None, keys: tuple[str, ...] = ()) -> ModelAdmission:
    rules = rules or AdmissionRules(trial=QUICK)
    return ModelAdmission(rules, Eyes(CandidateFiles(), TritonConfigs(), KeyVerifier(keys), TrialProcess()))


async def admitted(candidate: Candidate, rules: AdmissionRules | None = None, **changed: object) -> Admitted:
    return await gate(rules).admit(replace(candidate, **changed))  # type: ignore[arg-type]
