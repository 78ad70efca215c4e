"""A bundle is whole, of one model version, or refused by the name of the part that is wrong."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from corank.bundle.bundle import Bundle, next_items_seq
from tests.support.cases import Case, write_bundle
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


def test_every_file_is_a_part_with_its_size_and_checksum(written: Path) -> None:
    opened = Bundle.open(written)
    files = {str(p.relative_to(opened.folder)): p for p in opened.folder.rglob("*") if p.is_file()}
    assert set(opened.manifest.files) == set(files)
    assert {name: part.bytes for name, part in opened.manifest.files.items()} == {
        name: path.stat().st_size for name, path in files.items()
    }
    assert set(PARTS) <= set(files)
    assert sorted(p.name for p in written.iterdir()) == sorted([opened.folder.name, "manifest.json"])


def test_items_are_numbered_from_one_of_each_model(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    version = opened.manifest.model_version
    for seq in (2, 3):
        assert next_items_seq(bundle, version) == seq
        manifest = opened.manifest.model_copy(update={"items_seq": seq})
        written = write_bundle(bundle, manifest, partial(copy, Bundle.open(bundle).folder))
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
