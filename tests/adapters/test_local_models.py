"""Models that are on this machine already."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from adapters.local_models import FileSource, PackageSource
from adapters.model_sources import ModelSources
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef

MAGIKA = ModelRef.parse("package://magika/models/standard_v3_3/model.onnx")


def file_ref(path: Path, fragment: str = "") -> ModelRef:
    return ModelRef("file", f"{path}{fragment}")


async def refusal(source: FileSource, ref: ModelRef) -> str:
    with pytest.raises(ModelUnavailable) as refused:
        await source.resolve(ref)
    return str(refused.value)


async def test_a_file_is_known_by_its_content_whatever_leads_to_it(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    (tmp_path / "latest.onnx").symlink_to(model)
    resolved = await FileSource().resolve(file_ref(tmp_path / "latest.onnx"))
    digest = hashlib.sha256(b"model").hexdigest()
    assert [(file.path, file.size, file.sha256) for file in resolved.files] == [("latest.onnx", 5, digest)]
    assert resolved.files[0].locator == str(model)
    assert (resolved.revision, resolved.pinned) == (digest, f"file:{tmp_path}/latest.onnx#sha256={digest}")


async def test_a_file_is_read_from_any_byte_on(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"0123456789")
    source = FileSource()
    resolution = await source.resolve(file_ref(tmp_path / "m.onnx"))
    async with source.read(resolution, resolution.files[0], 4) as download:
        assert download.starts_at == 4
        assert b"".join([chunk async for chunk in download.chunks]) == b"456789"


async def test_a_folder_is_a_model_with_everything_in_it(tmp_path: Path) -> None:
    (tmp_path / "fraud" / "1").mkdir(parents=True)
    (tmp_path / "fraud" / "config.pbtxt").write_text("name: 'fraud'")
    (tmp_path / "fraud" / "1" / "model.onnx").write_bytes(b"graph")
    resolved = await FileSource().resolve(file_ref(tmp_path / "fraud"))
    assert sorted(file.path for file in resolved.files) == ["1/model.onnx", "config.pbtxt"]


async def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "fraud"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "m.onnx").symlink_to(tmp_path / "secret")
    assert "leads out of the folder" in await refusal(FileSource(), file_ref(folder))


async def test_pipes_and_links_to_folders_are_no_part_of_a_model(tmp_path: Path) -> None:
    piped, linked = tmp_path / "piped", tmp_path / "linked"
    piped.mkdir()
    os.mkfifo(piped / "m.onnx")
    (linked / "a").mkdir(parents=True)
    (linked / "b").symlink_to(linked / "a")
    assert "is not a file" in await refusal(FileSource(), file_ref(piped))
    assert "is a link to a folder" in await refusal(FileSource(), file_ref(linked))


async def test_a_pinned_file_that_is_another_one_now_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"old")
    source = FileSource()
    pinned = ModelRef.parse((await source.resolve(file_ref(model))).pinned)
    assert (await source.resolve(pinned)).pinned == str(pinned)
    model.write_bytes(b"new")
    assert "is another model by now" in await refusal(source, pinned)


async def test_a_file_that_changed_is_noticed_however_soon(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"old")
    source = FileSource()
    revision = (await source.resolve(file_ref(model))).revision
    assert not await source.has_moved(file_ref(model), revision)
    before = model.stat()
    model.write_bytes(b"new")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await source.has_moved(file_ref(model), revision)


async def test_a_missing_file_is_told_with_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "fraud.onnx").write_bytes(b"")
    words = await refusal(FileSource(), file_ref(tmp_path / "fruad.onnx"))
    assert words.endswith("there is no such file (did you mean 'fraud.onnx'?)")
    assert "nor the folder" in await refusal(FileSource(), file_ref(tmp_path / "no" / "m.onnx"))


async def test_empty_folders_loops_and_odd_names_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "at least one file" in await refusal(FileSource(), file_ref(tmp_path / "empty"))
    assert "cannot be read" in await refusal(FileSource(), file_ref(tmp_path / "loop"))
    assert "cannot be read" in await refusal(FileSource(), ModelRef("file", "/a\0b"))
    assert "is not a file" in await refusal(FileSource(), ModelRef("file", "/dev/zero"))


def test_a_model_inside_a_package_is_found_without_importing_it() -> None:
    was_imported = "magika" in sys.modules
    resolved = asyncio.run(PackageSource().resolve(MAGIKA))
    spec = importlib.util.find_spec("magika")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    expected = Path(spec.submodule_search_locations[0], "models/standard_v3_3/model.onnx")
    (file,) = resolved.files
    assert Path(file.locator) == expected.resolve()
    assert file.sha256 == hashlib.sha256(expected.read_bytes()).hexdigest()
    assert ("magika" in sys.modules) == was_imported


async def test_a_file_that_only_a_distribution_lists_is_found() -> None:
    resolved = await PackageSource().resolve(
        ModelRef.parse("package://grpcio-health-checking/grpc_health/v1/health.py")
    )
    assert resolved.files[0].locator.endswith("grpc_health/v1/health.py")


async def test_a_folder_inside_a_package_is_a_model() -> None:
    resolved = await PackageSource().resolve(ModelRef.parse("package://magika/models/standard_v3_3"))
    assert "model.onnx" in {file.path for file in resolved.files}


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
    assert words in await refusal(PackageSource(), ModelRef("package", location))


async def test_a_link_that_leads_out_of_a_package_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "borrowed_models"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('a reference must not run code')")
    (tmp_path / "secret").write_text("secret")
    (package / "m.onnx").symlink_to(tmp_path / "secret")
    sys.path.insert(0, str(tmp_path))
    try:
        words = await refusal(PackageSource(), ModelRef("package", "borrowed_models/m.onnx"))
    finally:
        sys.path.remove(str(tmp_path))
    assert "leads out of the package" in words


async def test_each_scheme_has_its_source_which_never_sees_the_choice_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"")
    sources = ModelSources({"file": FileSource()})
    resolved = await sources.resolve(file_ref(tmp_path / "m", "#m"))
    assert resolved.ref == file_ref(tmp_path / "m")
    assert resolved.revision == hashlib.sha256(b"").hexdigest()
    with pytest.raises(ModelUnavailable, match="no source for 'package' models"):
        await sources.resolve(MAGIKA)
