"""A content that was verified is not read again, unless anything of it was written to."""

import os
import shutil
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import pytest

from corank.bundle.bundle import Bundle, is_proven
from corank.core import artifact
from corank.core.errors import BundleError
from corank.core.files import open_regular_file
from corank_serve.http.process.worker_process import MOST_PROOFS, PROOF_BYTES, SPAWN, SharedProofs
from tests.support.shared import derived
from tests.support.worker_mains import note_proof


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copytree(derived().base / "bundle", tmp_path / "bundle"))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that are read and hashed from now on."""
    names = list[str]()

    def note(folder: Path, name: str) -> BufferedReader:
        names.append(name.partition("/")[2])
        return open_regular_file(folder, name)

    monkeypatch.setattr(artifact, "open_regular_file", note)
    return names


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _flip_at_the_same_time(path: Path) -> None:
    before = path.stat()
    _flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    _flip_at_the_same_time(other)
    other.replace(path)


def _add(path: Path) -> None:
    path.with_name("other").write_bytes(b"")


def test_a_content_is_hashed_once(path: Path, hashed: list[str]) -> None:
    proofs = set[bytes]()
    opened = Bundle.open(path, proofs=proofs)
    assert set(hashed) == set(opened.manifest.files) and is_proven(path, proofs)
    hashed.clear()
    assert Bundle.open(path, proofs=proofs) == opened and not hashed
    assert Bundle.open(path) == opened and hashed, "another service does not know of it"


@pytest.mark.parametrize("write", [_flip, _flip_at_the_same_time, _replace, _add, Path.unlink])
def test_what_was_written_to_since_is_verified_and_refused(path: Path, write: Callable[[Path], None]) -> None:
    proofs = set[bytes]()
    opened = Bundle.open(path, proofs=proofs)
    write(opened.folder / "rank.value.onnx")
    assert not is_proven(path, proofs)
    for _ in range(2):
        with pytest.raises(BundleError):
            Bundle.open(path, proofs=proofs)


def test_workers_share_the_newest_proofs() -> None:
    proofs = SharedProofs()
    worker = SPAWN.Process(target=note_proof, args=(proofs, 1))
    worker.start()
    worker.join()
    assert (1).to_bytes(PROOF_BYTES, "big") in proofs and (2).to_bytes(PROOF_BYTES, "big") not in proofs
    for number in range(2, MOST_PROOFS + 2):
        note_proof(proofs, number)
    known = [number for number in range(1, MOST_PROOFS + 3) if number.to_bytes(PROOF_BYTES, "big") in proofs]
    assert known == list(range(2, MOST_PROOFS + 2))
