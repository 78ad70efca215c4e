"""Results: tables as frames, figures, a notebook's view, and JSON that is what the command prints."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.api.results import DocumentResult, PlottedResult
from corank.training.run import Run
from tests.support.command_line import run_corank

pytestmark = pytest.mark.slow


def complete(result: PlottedResult) -> dict[str, pl.DataFrame]:
    """The tables of a result, whose figure and views work; none is empty."""
    svg = result.plot()._repr_svg_()  # type: ignore[attr-defined]
    assert "<svg" in svg and "</svg>" in svg
    tables = viewed(result)
    assert all(len(table) for table in tables.values())
    return tables


def viewed(result: DocumentResult) -> dict[str, pl.DataFrame]:
    """The tables of a result, whose views work."""
    tables = result.tables
    view = result._repr_html_()
    assert "</table>" in view and result.headline.split()[0] in view
    assert json.loads(result.to_json()) == result.document == dict(result)
    return tables


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command prints to stdout."""
    code, out, err = run_corank(capsys, *arguments)
    assert code == 0, err
    return out


def test_an_evaluation(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = corank.evaluate(str(trained.folder))
    tables = complete(evaluation)
    figures = tables["figures"]
    row = figures.row(by_predicate=(pl.col("stage") == "rank") & (pl.col("metric") == "gauc"), named=True)
    assert row == evaluation.row("rank.exposed.click.gauc") and row["low"] < row["high"]
    recalls = figures.filter(pl.col("metric").str.starts_with("click_recall"))
    assert recalls["random"][0] < 1 and recalls["n"][0] > 0
    assert printed(capsys, "evaluate", trained.folder, "--json") == evaluation.to_json() + "\n"


def test_a_training_has_its_history(world: Path, trained: Run) -> None:
    training = corank.train(str(world / "config.yaml"), folder=str(trained.folder), resume=True)
    assert training.run.folder == trained.folder and training.metrics == training.history[training.epoch - 1]
    metrics = training.tables["metrics"]
    assert metrics["epoch"].max() == len(training.history) == 2
    assert json.loads(training.to_json())["metrics"] == training.metrics
    assert "<svg" in training.plot()._repr_svg_() and "rank" in training._repr_html_()  # type: ignore[attr-defined]
    lines = repr(training).splitlines()
    assert len(lines) <= 10 and str(training.location) in lines[0] and "rank.click" in lines[1]
    assert lines[1:] == repr(training.metrics).splitlines()[:9]


def test_a_notebook_shows_the_first_rows_and_says_where_the_rest_is(trained: Run) -> None:
    evaluation = corank.evaluate(str(trained.folder))
    html = evaluation._repr_html_()
    heads = html.count("<thead")
    assert 1 <= html.count("<tr") - heads <= 10 and html.count("<svg") <= 1
    assert re.search("10 of [0-9,]+ rows", html)


def test_a_logged_request_is_what_the_command_prints(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = corank.request(trained.folder, 3, "valid")
    assert logged == json.loads(printed(capsys, "request", trained.folder, "--number", 3, "--split", "valid"))
