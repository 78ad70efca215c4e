"""Every command that reads served logs reads the files of a service process."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.support.command_line import run_corank
from tests.support.served_logs import add_labels
from tests.support.served_requests import served_log
from tests.support.shared import derived

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log() -> Path:
    return served_log() / "log"


@pytest.fixture(scope="module")
def labelled(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of what was answered, with labels joined to it."""
    out = tmp_path_factory.mktemp("labelled") / "labelled.parquet"
    add_labels(derived(), sorted(log.glob("served-*.parquet")), out)
    return out


def test_replay(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"lmdb:{served_log() / 'store'}"
    code, out, err = run_corank(capsys, "replay", log, store, "--cache", tmp_path / "cache", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["requests"] >= 2 and (report["skipped"], report["differ"]) == (0, 0)


def test_check_pack_and_refresh(labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, rows = derived(), pl.read_parquet(labelled)
    plain = case.config.model_dump(mode="json", by_alias=True)
    tables = {name: str(case.base / plain["data"][name]) for name in ("items", "users")}
    plain |= {"name": "served", "data": plain["data"] | tables | {"log": str(labelled)}}
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(plain))
    for command in ("check", "pack"):
        code, out, err = run_corank(capsys, command, tmp_path / "served.yaml", "--json")
        assert code == 0, err
    packed = json.loads(out)
    assert sum(packed["levels"].values()) == len(rows)
    shutil.copytree(case.base / "bundle", tmp_path / "bundle")
    code, out, err = run_corank(capsys, "refresh", tmp_path / "bundle", labelled, "--until", "1970-01-06")
    assert code == 0, err
