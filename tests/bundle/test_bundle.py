"""A bundle is whole, of one model version, or refused by the name of the part that is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from corank.bundle.bundle import Bundle, next_items_seq
from corank.bundle.bundle_writer import write_bundle
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
    assert set(opened.manifest.parts) == set(files)
    assert {name: part.bytes for name, part in opened.manifest.parts.items()} == {
        name: path.stat().st_size for name, path in files.items()
    }
    assert set(PARTS) <= set(files)
    assert sorted(p.name for p in written.iterdir()) == sorted([opened.folder.name, "manifest.json"])


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_part_is_refused_by_name(bundle: Path, part: str) -> None:
    path = content(bundle) / part
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for damaged, difference in (
        (data[:-1], f"({len(data) - 1} bytes in place of {len(data)})"),
        (flipped, "(its checksum differs)"),
    ):
        path.write_bytes(damaged)
        message = refused(bundle)
        assert message.startswith(f"{path}: damaged, or a part of another model version than ")
        assert message.endswith(f"{difference}; export the bundle again")
    path.unlink()
    assert refused(bundle) == f"{path}: missing from the bundle (No such file or directory); export it again"


def _edit(**changes: object) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        manifest = json.loads(path.read_bytes())
        path.write_text(json.dumps(manifest | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "not a bundle (it has no manifest.json); `corank export` makes one"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "manifest.json: cannot be read ("),
        (_edit(format=7), "manifest.json: format 7; this corank reads format 9; export the bundle again"),
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
    with pytest.raises(BundleError, match=r"holds other files \(notes.txt\) and is no bundle"):
        export_bundle(tmp_path, case.config, case.packed, case.model, case.calibrators)
    with pytest.raises(BundleError, match="exists and is no folder"):
        export_bundle(tmp_path / "notes.txt", case.config, case.packed, case.model, case.calibrators)
    with pytest.raises(BundleError, match=r"holds other files \(.*\) and is no bundle"):
        export_bundle(case.packed.folder, case.config, case.packed, case.model, case.calibrators)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def fill_from(content: Path, folder: Path) -> None:
    shutil.copytree(content, folder, dirs_exist_ok=True)


def test_each_writing_switches_whole_and_keeps_the_content_before(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    first, folders = opened.manifest, [opened.folder]
    parts = Path(shutil.copytree(opened.folder, bundle.parent / "parts"))
    del opened  # a content that is open is not removed
    (bundle / "notes.txt").write_text("mine")  # files of the user are left alone
    for seq in (2, 3):
        assert next_items_seq(bundle, first.model_version) == seq
        manifest = first.model_copy(update={"items_seq": seq})
        last = write_bundle(bundle, manifest, lambda folder: fill_from(parts, folder))
        assert folders[-1].is_dir()  # for those still reading it
        folders.append(last.folder)
    assert next_items_seq(bundle, "0" * 16) == 1
    assert Bundle.open(bundle) == last
    kept = {folders[1].name, folders[2].name, "manifest.json", "notes.txt"}
    assert {path.name for path in bundle.iterdir()} == kept


def test_a_content_stays_as_long_as_a_bundle_of_it_is_open(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    manifest, folder = opened.manifest, opened.folder
    for _ in range(3):
        write_bundle(bundle, manifest, lambda content: fill_from(folder, content))
    for name, part in manifest.parts.items():
        assert (folder / name).stat().st_size == part.bytes
    del opened
    write_bundle(bundle, manifest, lambda content: fill_from(folder, content))
    assert not folder.exists()
    assert len(list(bundle.iterdir())) == 3


def test_a_writing_that_fails_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = Bundle.open(bundle)

    def fail(folder: Path) -> None:
        (folder / "part").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        BundleError, match=r"cannot be written: \[Errno 28\] No space left on device; what was"
    ):
        write_bundle(bundle, before.manifest, fail)
    assert Bundle.open(bundle) == before
    assert {path.name for path in bundle.iterdir()} == {before.folder.name, "manifest.json"}


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
