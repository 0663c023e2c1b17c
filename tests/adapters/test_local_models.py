"""Models that are on this machine already."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest

from adapters.local_models import FileModels, PackageModels
from adapters.model_sources import ModelSources
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef

MAGIKA = ModelRef.parse("package://magika/models/standard_v3_3/model.onnx")


async def refusal(source: FileModels | PackageModels, ref: ModelRef) -> str:
    with pytest.raises(ModelUnavailable) as refused:
        await source.resolve(ref)
    return str(refused.value)


async def test_a_file_is_known_by_its_real_path_and_its_content(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    (tmp_path / "latest.onnx").symlink_to(model)
    resolved = await FileModels().resolve(ModelRef("file", str(tmp_path / "latest.onnx")))
    assert resolved.path == str(model)
    assert resolved.sha256 == hashlib.sha256(b"model").hexdigest()


async def test_a_missing_file_is_told_with_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "fraud.onnx").write_bytes(b"")
    words = await refusal(FileModels(), ModelRef("file", str(tmp_path / "fruad.onnx")))
    assert words.endswith("there is no such file (did you mean 'fraud.onnx'?)")
    assert "nor the folder" in await refusal(FileModels(), ModelRef("file", str(tmp_path / "no" / "m.onnx")))


async def test_folders_loops_and_odd_names_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "is not a file" in await refusal(FileModels(), ModelRef("file", str(tmp_path)))
    assert "cannot be read" in await refusal(FileModels(), ModelRef("file", str(tmp_path / "loop")))
    assert "cannot be read" in await refusal(FileModels(), ModelRef("file", "/a\0b"))
    assert "is not a file" in await refusal(FileModels(), ModelRef("file", "/dev/zero"))


def test_a_model_inside_a_package_is_found_without_importing_it() -> None:
    was_imported = "magika" in sys.modules
    resolved = asyncio.run(PackageModels().resolve(MAGIKA))
    spec = importlib.util.find_spec("magika")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    expected = Path(spec.submodule_search_locations[0], "models/standard_v3_3/model.onnx")
    assert Path(resolved.path) == expected.resolve()
    assert resolved.sha256 == hashlib.sha256(expected.read_bytes()).hexdigest()
    assert ("magika" in sys.modules) == was_imported


async def test_a_file_that_only_a_distribution_lists_is_found() -> None:
    resolved = await PackageModels().resolve(
        ModelRef.parse("package://grpcio-health-checking/grpc_health/v1/health.py")
    )
    assert resolved.path.endswith("grpc_health/v1/health.py")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("magika/models/nope.onnx", "the package 'magika' has no file 'models/nope.onnx'"),
        ("magica/models/m.onnx", "no package 'magica' is installed (did you mean 'magika'?)"),
        ("magika/../../../etc/passwd", "without '..'"),
        ("magika//etc/passwd", "without '..'"),
        ("magika/models\\m.onnx", "without '..'"),
        ("magika", "without '..'"),
        ("os.path/m.onnx", "no package 'os.path' is installed"),
        ("../etc/passwd", "no package '..' is installed"),
        ("grpcio/../../etc/passwd", "without '..'"),
    ],
)
async def test_what_is_not_inside_a_package_is_refused(location: str, words: str) -> None:
    assert words in await refusal(PackageModels(), ModelRef("package", location))


async def test_a_link_that_leads_out_of_a_package_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "borrowed_models"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('a reference must not run code')")
    (tmp_path / "secret").write_text("secret")
    (package / "m.onnx").symlink_to(tmp_path / "secret")
    sys.path.insert(0, str(tmp_path))
    try:
        words = await refusal(PackageModels(), ModelRef("package", "borrowed_models/m.onnx"))
    finally:
        sys.path.remove(str(tmp_path))
    assert "leads out of the package" in words


async def test_each_scheme_has_its_source(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"")
    sources = ModelSources({"file": FileModels()})
    resolved = await sources.resolve(ModelRef("file", str(tmp_path / "m")))
    assert resolved.short_digest == hashlib.sha256(b"").hexdigest()[:12]
    with pytest.raises(ModelUnavailable, match="no source for 'package' models"):
        await sources.resolve(MAGIKA)
