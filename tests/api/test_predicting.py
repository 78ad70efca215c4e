"""A frame of one's own: what `import_lists` took, `predict` and `evaluate` take of later rows."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from tests.support.command_line import run_corank

pytestmark = pytest.mark.slow
ROLES: dict[str, Any] = {
    "candidates": "item_id",
    "labels": "is_click",
    "request": "request_id",
    "user": "user_id",
    "time": "time",
}


def rows(first: int, last: int) -> pl.DataFrame:
    """A row an exposure: five items of each request."""
    random, requests = np.random.default_rng(first), range(first, last)
    return pl.concat(
        pl.DataFrame(
            {
                "request_id": [number] * 5,
                "user_id": [number % 7] * 5,
                "item_id": random.choice(20, 5, replace=False),
                "is_click": random.integers(0, 2, 5),
                "time": [datetime(2026, 4, 1) + timedelta(minutes=20 * number)] * 5,
            }
        )
        for number in requests
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    corank.import_lists(rows(0, 300), folder / "shop", **ROLES)
    settings = ["train.epochs=1", "baseline=false"]
    result = corank.train(folder / "shop" / "config.yaml", settings, folder=folder / "run")
    return result.run.folder


def test_rows_and_lists_are_predicted_alike_with_labels_or_without(run: Path, tmp_path: Path) -> None:
    new = rows(300, 330)
    lists = new.group_by("request_id", "user_id", "time", maintain_order=True).agg("item_id", "is_click")
    given = {"rows": new, "lists": lists}
    found = {}
    for name, frame in (given | {f"{n}, bare": f.drop("is_click") for n, f in given.items()}).items():
        corank.predict(run, frame, tmp_path / name)
        found[name] = pl.read_parquet(tmp_path / name / "*.parquet").sort("request_id", "item_id")
    assert found["rows"].equals(found["lists"]) and found["rows, bare"].equals(found["lists, bare"])
    # histories of clicks are of the rows that are given
    first = pl.col("request_id") < 307
    bare, labelled = found["rows, bare"].filter(first), found["rows"].filter(first)
    assert bare["logit.rank.click"].equals(labelled["logit.rank.click"])
    assert bare["is_click"].null_count() == len(bare)


def test_a_csv_of_rows_is_predicted_by_the_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows(300, 310).drop("is_click").write_csv(tmp_path / "new.csv")
    code, _, err = run_corank(capsys, "predict", run, tmp_path / "new.csv", tmp_path / "out")
    assert code == 0 and "10 requests, 50 candidates" in err, err


def test_a_run_is_evaluated_on_rows_and_lists_as_imported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = rows(300, 360)
    lists = new.group_by("request_id", "user_id", "time", maintain_order=True).agg("item_id", "is_click")
    new.write_csv(tmp_path / "new.csv")
    corank.predict(run, new, tmp_path / "predicted")
    found = pl.read_parquet(tmp_path / "predicted" / "*.parquet")
    clicks, scores = found["is_click"].to_numpy() == 1, found["logit.rank.click"].to_numpy()
    expected = np.mean(scores[clicks][:, None] > scores[~clicks])
    for on in (new, lists, tmp_path / "new.csv"):
        evaluation = corank.evaluate(run, on=on)
        assert evaluation.row("rank.exposed.click.auc")["value"] == pytest.approx(expected, abs=1e-6)
        assert evaluation["run"]["unknown"] == 0 and "rows: 60 requests, 300 candidates" in str(evaluation)
    own = corank.evaluate(run).frame()
    for population in ("exposed", "candidates", "cascade"):
        measured = (table.filter(population=population)["metric"] for table in (evaluation.frame(), own))
        assert len({frozenset(names) for names in measured}) == 1
    code, out, err = run_corank(capsys, "evaluate", run, "--on", tmp_path / "new.csv", "--json")
    assert code == 0 and '"unknown": 0' in out, err
    with pytest.raises(DataError, match=r"no column .*is_click"):
        corank.evaluate(run, on=new.drop("is_click"))
    with pytest.raises(DataError, match=r"--on .*leave out --split"):
        corank.evaluate(run, "valid", on=new)
