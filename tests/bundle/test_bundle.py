"""A bundle is whole, of one model version, or refused by the name of the part that is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from corank.bundle.bundle import Bundle, next_items_seq, write_bundle
from corank.core.errors import BundleError
from corank.serving.funnel.funnel import Funnel
from corank.training.export import export_bundle
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case

PARTS = ["rank.value.onnx", "tables/shared/8.npy", "items/part.prerank.vector.npy", "encoders/encoders.json"]


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


@pytest.fixture(scope="module")
def written(case: Case) -> Path:
    """An exported bundle; tests that change one take a copy."""
    return case.base / "bundle"


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def content(bundle: Path) -> Path:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    return bundle / str(manifest["content"])


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as error:
        Funnel.open(bundle)
    return str(error.value)


def test_every_file_is_a_part_with_its_size_and_checksum(written: Path) -> None:
    opened = Bundle.open(written)
    files = {str(p.relative_to(opened.folder)): p for p in opened.folder.rglob("*") if p.is_file()}
    assert set(opened.manifest.files) == set(files)
    assert {name: part.bytes for name, part in opened.manifest.files.items()} == {
        name: path.stat().st_size for name, path in files.items()
    }
    assert set(PARTS) <= set(files)
    assert sorted(p.name for p in written.iterdir()) == sorted([opened.folder.name, "manifest.json"])


def _edit(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        manifest = json.loads(path.read_bytes())
        path.write_text(json.dumps(manifest | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "not a bundle (it has no manifest.json); `corank export` makes one"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "manifest.json: damaged ("),
        (_edit(format=8), "manifest.json: format 8; this corank reads format 9; export the bundle again"),
        (_edit(items_seq=7), "manifest.json: altered since it was written; export the bundle again"),
    ],
)
def test_unsound_manifest_is_refused(bundle: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(bundle / "manifest.json")
    error = refused(bundle)
    assert error.startswith(str(bundle))
    assert message in error


# What may be written over


def test_export_refuses_a_folder_of_other_files(case: Case, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"holds other files \(notes.txt\) and no bundle"):
        export_bundle(tmp_path, case.config, case.packed, case.model, case.calibrators)
    with pytest.raises(BundleError, match="exists and is no folder"):
        export_bundle(tmp_path / "notes.txt", case.config, case.packed, case.model, case.calibrators)
    with pytest.raises(BundleError, match=r"holds other files \(.*\) and no bundle"):
        export_bundle(case.packed.folder, case.config, case.packed, case.model, case.calibrators)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_items_are_numbered_from_one_of_each_model(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    version = opened.manifest.model_version
    for seq in (2, 3):
        assert next_items_seq(bundle, version) == seq
        manifest = opened.manifest.model_copy(update={"items_seq": seq})
        written = write_bundle(bundle, manifest, lambda folder: copy(opened.folder, folder))
        assert Bundle.open(bundle) == written
    assert next_items_seq(bundle, "0" * 16) == 1


def copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to, dirs_exist_ok=True)


def test_no_part_is_a_pickle(written: Path) -> None:
    """A pickle of protocol 2 or later begins with 0x80 and its protocol, in a file or a zip of them."""
    for path in (p for p in written.rglob("*") if p.is_file()):
        head = path.read_bytes()
        assert not (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")), path
        assert head[:4] != b"PK\x03\x04", path
        assert path.suffix in (".json", ".npy", ".onnx"), path
        if path.suffix == ".npy":
            # an array of objects would be pickled
            assert b"|O" not in head[:128], path
