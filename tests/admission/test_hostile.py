"""Every hostile model is refused: by the check that is meant for it, in words of its own, and nothing is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.models.ports import AdmissionRefused
from tests.admission.folders import admitted, written
from tests.admission.hostile import HOSTILE, Hostile


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
async def test_a_hostile_model_is_refused_and_touches_nothing(hostile: Hostile, tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(8))
    candidate = written(tmp_path / "model", hostile.files())
    before = everything(tmp_path)
    with pytest.raises(AdmissionRefused) as refused:
        await admitted(candidate)
    assert (refused.value.check, hostile.words in str(refused.value)) == (hostile.check, True), str(refused.value)
    assert refused.value.to_do
    assert everything(tmp_path) == before


def test_no_two_hostile_models_are_refused_for_the_same_reason() -> None:
    files = [tuple(sorted(hostile.files().items())) for hostile in HOSTILE]
    assert len(set(files)) == len(HOSTILE) >= 25
