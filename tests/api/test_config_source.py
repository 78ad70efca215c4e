"""A config as a file, a mapping or typed objects, and its tables as files or frames: the same runs and packed data."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import corank
from corank.core.artifact import read_manifest
from corank.core.errors import ConfigError, DataError
from corank.data.packed.manifest import PackManifest
from corank.training.config.config_file import read
from corank.training.config.yaml_values import read_yaml_file


@pytest.fixture
def raw(small_world: Path, tmp_path: Path) -> Path:
    """The tables and the config of the world, not packed."""
    for name in ("log", "truth"):
        shutil.copytree(small_world / name, tmp_path / name)
    for name in ("config.yaml", "items.parquet", "users.parquet"):
        shutil.copy(small_world / name, tmp_path / name)
    return tmp_path


def values(config: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_yaml_file(config)
    return document


def test_a_config_is_the_same_as_file_text_mapping_and_object(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raw)
    typed = read(Path("config.yaml"))
    summaries = [
        corank.check(source, ["train.epochs=2"])
        for source in ("config.yaml", Path("config.yaml"), values(Path("config.yaml")), typed)
    ]
    assert all(summary.samples == summaries[0].samples for summary in summaries)
    assert all(summary.config == summaries[0].config for summary in summaries)
    assert summaries[0].config.train.epochs == 2
    assert corank.check(typed).config == typed


def test_mistakes_in_a_mapping_name_the_key(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw)
    wrong = values(Path("config.yaml")) | {"train": {"epoch": 1}}
    with pytest.raises(ConfigError, match=r"^config: train: unknown key 'epoch'; did you mean 'epochs'"):
        corank.check(wrong)
    with pytest.raises(ConfigError, match=r"config: expected a YAML file, a .* corank\.Config; received int"):
        corank.check(3)  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "arrow"])
def test_frames_pack_to_the_bytes_of_their_files(small_world: Path, raw: Path, kind: str) -> None:
    convert: dict[str, Callable[[pl.DataFrame], Any]] = {
        "polars": lambda frame: frame,
        "lazy": pl.DataFrame.lazy,
        "pandas": lambda frame: frame.to_pandas(),
        "arrow": lambda frame: frame.to_arrow(),
    }
    config = raw / "config.yaml"
    files = {
        "log": sorted((raw / "log").glob("*")),
        "items": [raw / "items.parquet"],
        "users": [raw / "users.parquet"],
    }
    tables = {name: convert[kind](pl.read_parquet(paths)) for name, paths in files.items()}
    by_file = read_manifest(small_world / "packed" / "simulated-medium", PackManifest)
    without = values(config)
    for name in tables:
        del without["data"][name]
    config.write_text(yaml.safe_dump(without, sort_keys=False), encoding="utf-8")
    by_frame = corank.pack(config, ["packed=by_frame"], tables=tables).packed
    assert by_frame.manifest.files == by_file.files
    again = corank.pack(config, ["packed=by_frame"], tables=tables).packed
    assert again.manifest == by_frame.manifest
    assert len(list((raw / "by_frame.tables").glob("*.parquet"))) == 3
    assert not [path for path in (raw / "by_frame.tables").iterdir() if path.name.startswith(".")]


def test_errors_name_the_frame(raw: Path) -> None:
    log = pl.read_parquet(raw / "log" / "*")
    config = raw / "config.yaml"
    with pytest.raises(DataError, match=r"^the frame given as log: no column 'item_id'; near ones: item"):
        corank.pack(config, tables={"log": log.rename({"item_id": "item"})})
    with pytest.raises(DataError, match=r"^the frame given as log: column 'time' is String; expected times"):
        corank.check(config, tables={"log": log.with_columns(pl.col("time").cast(pl.String))})
    with pytest.raises(
        DataError, match=r"^log: expected files .* or a frame of polars, pandas or Arrow; received dict"
    ):
        corank.check(config, tables={"log": {}})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"^tables: unknown table 'logs'; .* items, users, truth or events"):
        corank.check(config, tables={"logs": log})
    with pytest.raises(DataError, match=r"^the frame given as items: cannot be written as Parquet"):
        corank.check(config, tables={"items": pl.DataFrame({"a": [object()]})})
