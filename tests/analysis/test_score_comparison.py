"""`corank compare` of two tables of scores: what `corank predict` wrote, or any Parquet with the same keys."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.analysis.score_comparison import read_label
from corank.api.results import ComparisonResult
from corank.core.errors import DataError
from corank.metrics.point import auc
from tests.support.command_line import run_corank
from tests.support.shared import finished_run


def table(seed: int = 0, noise: float = 1.0) -> pl.DataFrame:
    """Rows of 400 requests of five, half of whose labels are known; less noise gives a better score."""
    rng, noisy = np.random.default_rng(0), np.random.default_rng(seed)
    p = rng.random(2000)
    label = (rng.random(2000) < p).astype(np.int8)
    score = np.clip(p + noise * 0.2 * noisy.standard_normal(2000), 0.001, 0.999)
    request = np.repeat(np.arange(400), 5)
    known = rng.random(2000) < 0.5
    return pl.DataFrame(
        {
            "request": request,
            "person": [f"u{n % 60}" for n in request],
            "thing": np.tile(np.arange(5), 400),
            "liked": pl.Series(
                [int(y) if k else None for y, k in zip(label, known, strict=True)], dtype=pl.Int8
            ),
            "score": score,
        }
    )


def write(folder: Path, name: str, frame: pl.DataFrame) -> Path:
    frame.write_parquet(folder / name)
    return folder / name


def compare(folder: Path, one: pl.DataFrame, other: pl.DataFrame, **options: Any) -> ComparisonResult:
    a, b = write(folder, "a.parquet", one), write(folder, "b.parquet", other)
    return corank.compare(a, b, **({"user": "person", "request": ["request"]} | options))


def test_rows_are_joined_by_their_keys(tmp_path: Path) -> None:
    one, other = table(1, 0.3), table(2, 3.0)
    document = compare(tmp_path, one, other.sample(fraction=1, shuffle=True, seed=1))
    metrics = {row["metric"]: row for row in document["rows"]}
    assert {(row["stage"], row["population"], row["label"]) for row in document["rows"]} == {
        ("score", "exposed", "liked")
    }
    assert (document["candidates"], document["requests"], document["unknown"]) == (2000, 400, 0)
    label = one["liked"].fill_null(-1).to_numpy()
    user = np.unique(one["person"].to_numpy(), return_inverse=True)[1]
    for side, frame in (("a", one), ("b", other)):
        assert metrics["auc"][side] == pytest.approx(auc(user, frame["score"].to_numpy(), label).value())
    assert {"gauc", "request_auc", "ndcg@10", "logloss"} <= set(metrics)
    assert {metrics[name]["verdict"] for name in ("auc", "gauc", "request_auc", "logloss")} == {"better"}
    assert metrics["auc"]["low"] > 0 and metrics["logloss"]["high"] < 0


def test_rows_without_a_score_are_left_out_of_both(tmp_path: Path) -> None:
    one, other = table(1), table(2)
    gone = [
        pl.when(pl.int_range(pl.len()) == n).then(None).otherwise(pl.col("score")).alias("score")
        for n in (3, 7)
    ]
    document = compare(tmp_path, one.with_columns(gone[0]), other.with_columns(gone[1]))
    without = [n for n in range(2000) if n not in (3, 7)]
    expected = compare(tmp_path, one[without], other[without])
    assert document["unknown"] == 2 and expected["unknown"] == 0
    assert {**document, "unknown": 0} == dict(expected)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda rows: rows[:1990], {}, r"b.parquet lacks 10 of the 2,000 rows of .*, which lacks 0 of its 1,990"),
        (lambda rows: pl.concat([rows, rows[:1]]), {}, "b.parquet: 2 rows share the keys request, person, thing"),
        (lambda rows: rows.with_columns(pl.col("liked") * 0), {}, "label 'liked' differs between the tables"),
        (lambda rows: rows, {"user": None}, "name the column of the user by --user"),
        (lambda rows: rows, {"user": "nobody"}, "--user: .* has no column 'nobody'"),
        (lambda rows: rows, {"labels": ["thing"]}, "--label: .*column 'thing' holds 2; expected 0, 1 or null"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(
    tmp_path: Path, change: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        compare(tmp_path, table(1), change(table(2)), **options)


@pytest.mark.parametrize("values", [[1.0, 0.0, None], [True, False, None], ["1", "0", None]])
def test_a_label_is_0_1_or_null_whatever_holds_it(values: list[Any]) -> None:
    assert read_label(pl.Series("y", values), "column").to_list() == [1, 0, None]


@pytest.mark.slow
def test_predictions_of_runs_are_compared_with_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run()
    # the table of users is that of the run's config
    corank.predict(run.folder, str(run.base / "log/*.parquet"), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    page = tmp_path / "page.html"
    code, text, err = run_corank(capsys, "compare", tmp_path / "a", tmp_path / "b", "--page", page)
    assert code == 0, err
    assert "value.rank: is_click, exposed" in text and "1,200 requests, 36,000 candidates" in text
    assert "request_auc" in text and "logit." not in text
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(DataError, match="holds scores, the other does not"):
        corank.compare(tmp_path / "a", run.folder)
    with pytest.raises(DataError, match="apply to tables of scores"):
        corank.compare(run.folder, tmp_path, user="user_id")
