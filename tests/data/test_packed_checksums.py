"""A bit that flipped in packed data is an error of the command that reads the file, and packing mends it."""

import json
from pathlib import Path
from typing import Any

import pytest

import corank
from corank.core.artifact import MANIFEST
from corank.core.errors import DataError, UsageError
from tests.support.daily_log import config_of, write_day

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A config whose days are packed."""
    for n in range(2):
        write_day(tmp_path, n)
    settings = config_of(0, tmp_path)
    corank.pack(settings)
    return settings


def flip(folder: Path, name: str) -> Path:
    """Flip the last bit of a file of packed data."""
    content = json.loads((folder / MANIFEST).read_text())["content"]
    path: Path = next((folder / content).glob(name))
    read = path.read_bytes()
    path.write_bytes(read[:-1] + bytes([read[-1] ^ 1]))
    return path


def test_a_flipped_bit_is_found_where_it_would_change_figures(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []
    packed, run = tmp_path / "packed", tmp_path / "run"
    corank.train(settings, folder=run)
    before = corank.evaluate(run, split="valid")
    path = flip(packed, "valid/*/label.click.npy")
    damaged = rf"{path}: damaged, or of another version \(its checksum differs\); run `corank pack`"
    with pytest.raises(DataError, match=damaged):
        corank.evaluate(run, split="valid")
    with pytest.raises(DataError, match=damaged):
        corank.check(verify=packed)
    corank.evaluate(run, split="train")
    corank.pack(settings, report=said.append)
    assert [line for line in said if line.startswith("packing again: ") and str(path) in line]
    assert corank.check(verify=packed, report=said.append).packed.location == packed
    assert said[-1].startswith(f"{packed}: ") and said[-1].endswith(" bytes: as they were written")
    assert corank.evaluate(run, split="valid").to_json() == before.to_json()
    flip(packed, "train/*/item.npy")
    corank.train(settings, folder=run, overwrite=True, report=said.append)
    assert any(line.startswith("packing again: ") and "item.npy" in line for line in said)
    assert corank.evaluate(run, split="valid").to_json() == before.to_json()


def test_a_packing_goes_on_from_no_damaged_state_and_no_damaged_days_are_trained_on(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    later, first = config_of(1, tmp_path), tmp_path / "packed"
    second = corank.pack(later, continue_from=first).packed.location
    assert isinstance(second, Path)
    path = flip(second, "train/*/label.click.npy")
    with pytest.raises(DataError, match=f"{path}: damaged"):
        corank.train(later, folder=tmp_path / "run")
    corank.pack(later, continue_from=first)
    corank.train(later, folder=tmp_path / "run")
    path = flip(first, "users.arrow")
    with pytest.raises(DataError, match=f"{path}: damaged"):
        corank.pack(later, continue_from=first)


def test_packed_data_alone_are_verified(settings: dict[str, Any], tmp_path: Path) -> None:
    for n, settings["features"]["item"]["max_rows"] in enumerate((20, 15)):
        corank.pack(settings)
        assert len([*(tmp_path / "packed" / "sets").glob("[!.]*")]) == n + 1
    (damaged, _) = (tmp_path / "packed" / "sets").glob("[!.]*")
    path = flip(damaged, "train/*/time.npy")
    with pytest.raises(DataError, match=f"{path}: damaged"):
        corank.check(verify=tmp_path / "packed")
    with pytest.raises(UsageError, match="--verify takes packed data only"):
        corank.check(settings, verify=tmp_path / "packed")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="expected a config, or packed data as --verify PACKED"):
        corank.check()  # type: ignore[call-overload]
    with pytest.raises(DataError, match="no packed data here"):
        corank.check(verify=tmp_path / "log")
