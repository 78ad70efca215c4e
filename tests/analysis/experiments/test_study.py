"""A study on a small world: its answers, and that an interrupted one continues and ends the same."""

import json
import shutil
from html import escape
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank import ExperimentResult
from corank.core.errors import ConfigError, DataError
from tests.support.command_line import run_corank
from tests.support.html import Read

pytestmark = pytest.mark.slow

MOST = (2, 5, 6, 7, 8)
FEW: dict[str, Any] = {"seeds": 2, "rates": (1.0, 3.0)}
FEW_REQUESTS = ("name=few", "data.split={valid: 2026-03-09, test: 2026-03-10}")
"""Validate and test on some 40 each."""


@pytest.fixture(scope="module")
def studied(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study's folder and its document."""
    out = tmp_path_factory.mktemp("study")
    return out, corank.study(config, out, questions=MOST, **FEW).document


def timeless(value: Any) -> Any:
    """A document without measured times."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in ("seconds", "cpu_ms")}
    if isinstance(value, list):
        return [timeless(part) for part in value if not (isinstance(part, str) and "CPU" in part)]
    return value


def modified(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "trials").iterdir()}


def test_the_document(studied: tuple[Path, dict[str, Any]]) -> None:
    out, document = studied
    assert json.loads((out / "study.json").read_text(encoding="utf-8")) == document
    assert document["metric"] == "joint_truth_recall"
    assert list(document["questions"]) == [str(number) for number in MOST]
    assert document["trials"] == len(modified(out))
    for arm in document["arms"].values():
        assert arm["rate"] == max(arm["scores"], key=arm["scores"].get, default=None) or float(
            max(arm["scores"], key=arm["scores"].get)
        ) == pytest.approx(arm["rate"])
    means = [row for row in document["rows"] if "seeds" in row]
    assert {row["run"] for row in means} == {*document["arms"], "the ranker as pre-ranker"}
    for row in means:
        assert row["value"] == pytest.approx(sum(row["seeds"]) / 2)


def test_a_verdict_rests_on_enough_requests(
    config: Path, studied: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, document = studied
    tested = document["requests"]
    (joint,) = (
        row
        for row in document["rows"]
        if (row["run"], row["name"], row["rate"]) == ("as written", "joint_truth_recall", None)
    )
    assert joint["requests"] == tested >= 100
    assert f" of {tested} requests, beside the config as written" in document["questions"]["6"]["verdict"][0]
    overrides = [*FEW_REQUESTS, f"packed={tmp_path / 'packed'}"]
    few = corank.study(
        config, tmp_path / "few", questions=(5, 6), seeds=1, rates=(1.0,), overrides=overrides
    ).document
    assert few["requests"] < 50 and few["metric"] == "first_auc"
    assert few["questions"]["5"]["verdict"][0].startswith("Cannot be answered: only ")
    assert all(" no verdict, since it rests on " in line for line in few["questions"]["6"]["verdict"])
    assert {row["verdict"] for row in few["rows"] if row["base"]} == {"too few requests"}


def test_the_page(studied: tuple[Path, dict[str, Any]]) -> None:
    out, document = studied
    page = (out / "study.html").read_text(encoding="utf-8")
    assert Read(page).foreign == []
    assert len(page) < 1_000_000
    for question in document["questions"].values():
        assert f". {escape(question['title'])}</h2>" in page
    assert page.count("<svg ") == 6  # two of question 2, one of each other
    drawn = ExperimentResult(document).plot(5)._repr_svg_()  # type: ignore[attr-defined]
    assert "CPU time a request" in drawn


def test_a_killed_study_ends_the_same(
    config: Path, studied: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, document = studied
    killed = shutil.copytree(out, tmp_path / "killed")
    (killed / "study.json").unlink()
    gone, torn, stranger, *_ = sorted((killed / "trials").iterdir())
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:1000])
    stranger.write_text(stranger.read_text(encoding="utf-8").replace('"identity": "', '"identity": "0'))
    again = corank.study(config, killed, questions=MOST, **FEW).document
    assert timeless(again) == timeless(document)
    assert modified(killed).keys() == modified(out).keys()


def test_other_data_are_trained_anew(config: Path, tmp_path: Path) -> None:
    config = shutil.copytree(config.parent, tmp_path / "world") / "config.yaml"
    options: dict[str, Any] = {"questions": (3,), "seeds": 1, "rates": (1.0,)}
    corank.study(config, tmp_path / "out", **options)
    before = modified(tmp_path / "out")
    part = next((config.parent / "log").iterdir())
    pl.read_parquet(part).head(-30).write_parquet(part)
    with pytest.raises(DataError, match="corank pack"):
        corank.study(config, tmp_path / "out", **options)
    corank.pack(config)
    corank.study(config, tmp_path / "out", **options)
    after = modified(tmp_path / "out")
    assert len(after) == 2 * len(before)
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {
                "overrides": (
                    "stages.0={name: prerank, model: mlp, cuts: [retrieved], keep: 9}",
                    "losses=[{kind: click, stage: prerank}, {kind: click, stage: rank}]",
                )
            },
            "the first with item vectors, such as `model: towers`",
        ),
        ({"questions": (10,)}, r"questions: expected some of 1 to 9; received \[10\]"),
        ({"rates": (0.0,)}, "rates: must be factors above 0"),
    ],
)
def test_what_cannot_be_studied(config: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        corank.study(config, tmp_path, **options)
    assert not any(tmp_path.iterdir())


def test_the_command(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (config, "--out", tmp_path, "--seeds", 1, "--rates", "1", "--questions", "5,6")
    code, out, err = run_corank(capsys, "study", *options)
    assert code == 0
    assert "6. What makes the stages consistent?" in out
    assert "trial 5/5" in err
    code, out, err = run_corank(capsys, "study", *options, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    code, out, err = run_corank(capsys, "study", *options, "--questions", "one.yaml")
    assert (code, out) == (1, "")
    assert "one.yaml: no such file" in err
