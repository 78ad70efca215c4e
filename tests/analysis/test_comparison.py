"""`corank compare`: paired differences of two runs on the same candidates."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import corank
from corank.analysis.bundle_comparison import require_same_log
from corank.analysis.comparison import Margins, join_figures
from corank.api.results import ComparisonResult
from corank.bundle.manifest import load_manifest
from corank.core.errors import DataError
from corank.core.types import Doubles
from corank.evaluation.inputs import Subject
from corank.evaluation.rows import name_row
from corank.evaluation.table import Figure, measure
from corank.metrics.intervals import interval
from corank.metrics.measure import Keys
from corank.metrics.point import auc
from corank.testing.worlds import trained_run
from corank.training.run import Run
from tests.support.bundle_versions import variant
from tests.support.command_line import run_corank
from tests.support.shared import derived, finished_bundle, finished_run, simulated_world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    other = trained_run(
        simulated_world() / "config.yaml", tmp_path_factory.mktemp("other") / "run", "train.seed=7"
    )
    return finished_run(), other


def test_values_are_those_of_evaluate_and_signs_turn(runs: tuple[Run, Run]) -> None:
    one, other = (corank.evaluate(run.folder, bootstrap=False) for run in runs)
    forth, back = (
        corank.compare(runs[0].folder, runs[1].folder),
        corank.compare(runs[1].folder, runs[0].folder),
    )
    words = {"better": "worse", "worse": "better", "no difference shown": "no difference shown"}
    for figure in forth["rows"]:
        name = name_row(figure)
        assert (figure["a"], figure["b"]) == (one.row(name)["value"], other.row(name)["value"])
        turned = back.row(name)
        assert turned["difference"] == -figure["difference"]
        assert (turned["low"], turned["high"]) == (
            pytest.approx(-figure["high"]),
            pytest.approx(-figure["low"]),
        )
        assert turned["verdict"] == words[figure["verdict"]]
    assert {row["population"] for row in forth["rows"]} == {"exposed", "candidates", "cut", "cascade"}


def _figures(user: Keys, p: Doubles, label: NDArray[np.int8]) -> list[Figure]:
    """AUC, log loss and PCOC of probabilities."""
    inputs = {"user": user, "logit": p, "probability": p, "label": label, "weight": np.ones(len(p))}
    subject = Subject("rank", "click", "exposed", inputs)
    return measure([subject], lambda _, name, metric: metric.name in ("auc", "logloss", "pcoc"))


def _join(ours: list[Figure], theirs: list[Figure], margins: Margins | None = None) -> dict[str, Any]:
    return {row["metric"]: row for row in join_figures(ours, theirs, margins or Margins())}


def test_a_verdict_follows_the_direction_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    user, p = rng.integers(200, size=4000), rng.random(4000)
    label = (rng.random(4000) < p).astype(np.int8)
    good, bad = p, np.clip(p * 0.5 + 0.4 * rng.random(4000), 0.01, 0.99)
    ours, theirs = _figures(user, good, label), _figures(user, bad, label)
    metrics = _join(ours, theirs)
    assert {name: one["verdict"] for name, one in metrics.items()} == dict.fromkeys(metrics, "better")
    assert metrics["logloss"]["difference"] < 0 < metrics["auc"]["difference"]
    metrics = _join(theirs, ours)
    assert {one["verdict"] for one in metrics.values()} == {"worse"}


def test_the_interval_is_paired() -> None:
    """Two similar orderings differ by far less than each varies with its users."""
    rng = np.random.default_rng(0)
    user, p = rng.integers(200, size=4000), rng.random(4000)
    label = (rng.random(4000) < p).astype(np.int8)
    near = np.clip(p + 0.02 * rng.standard_normal(4000), 0, 1)
    difference = _join(_figures(user, p, label), _figures(user, near, label))["auc"]
    alone = interval(auc(user, p, label))
    assert alone is not None and 0 < 4 * (difference["high"] - difference["low"]) < alone[1] - alone[0]


def test_a_single_user_shows_no_difference() -> None:
    """Its resamples are all alike, and would give an interval without a width."""
    rng = np.random.default_rng(0)
    user, p = np.zeros(400, dtype=np.int64), rng.random(400)
    label = (rng.random(400) < p).astype(np.int8)
    row = _join(_figures(user, p, label), _figures(user, 1 - p, label))["auc"]
    assert row["difference"] > 0.2 and (row["low"], row["high"]) == (None, None)
    assert (row["verdict"], row["not_worse"]) == ("no difference shown", False)


def test_a_verdict_needs_an_interval_beyond_the_margin() -> None:
    rng = np.random.default_rng(0)
    user, p = rng.integers(200, size=4000), rng.random(4000)
    label = (rng.random(4000) < p).astype(np.int8)
    sharp, dull = _figures(user, p, label), _figures(user, np.clip(p + 0.4 * rng.random(4000), 0, 1), label)
    gain = _join(sharp, dull)["auc"]["difference"]
    by_margin = {
        margin: _join(dull, sharp, Margins(0.9, {"auc": margin}))["auc"] for margin in (0.0, gain, 3 * gain)
    }
    assert [one["verdict"] for one in by_margin.values()] == [
        "worse",
        "no difference shown",
        "no difference shown",
    ]
    assert [one["not_worse"] for one in by_margin.values()] == [False, False, True]
    assert _join(sharp, dull)["auc"]["verdict"] == "better"


def test_the_command_prints_a_table_and_writes_a_page(
    runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, text, _ = run_corank(capsys, "compare", runs[0].folder, runs[1].folder, "--page", page)
    assert code == 0 and "rank: click, exposed" in text and "a − b" in text.replace("\u00a0", " ")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    _, text, _ = run_corank(capsys, "compare", runs[0].folder, runs[1].folder, "--json")
    assert json.loads(text)["a"] == str(runs[0].folder)


def click_recall(folder: Path, m: int) -> float:
    """The share of a request's clicks that the pre-ranker keeps, of predictions that `corank predict` wrote."""
    place = pl.col("value.prerank").rank("ordinal", descending=True).over("request_id")
    by_request = (
        pl.read_parquet(folder)
        .drop_nulls("value.prerank")
        .with_columns(kept=(place <= m) & (pl.col("is_click") == 1))
        .group_by("request_id")
        .agg(pl.len(), kept=pl.col("kept").sum(), clicks=pl.col("is_click").sum())
    )
    share = by_request.filter(pl.col("len") > m, pl.col("clicks") > 0).select(
        pl.col("kept") / pl.col("clicks")
    )
    return float(share.to_series().mean())  # type: ignore[arg-type]


def test_bundles_are_compared_on_logged_requests(
    runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All candidates of a log are scored, and measured as those of runs are; unknown ones are left out."""
    world, bundles = simulated_world(), [finished_bundle(), tmp_path / "other"]
    corank.export(runs[1].folder, bundles[1])
    log = pl.read_parquet(world / "log" / "*.parquet").filter(pl.col("request_id") % 12 == 0)
    unknown = log.head(1).with_columns(pl.lit(10**6, log["item_id"].dtype).alias("item_id"))
    pl.concat([log, unknown]).write_parquet(tmp_path / "log.parquet")
    tables = ["--on", str(tmp_path / "log.parquet"), "--users", str(world / "users.parquet")]
    code, text, error = run_corank(capsys, "compare", *bundles, *tables, "--margin", "0.9", "--json")
    assert code == 0, error
    document = ComparisonResult(json.loads(text))
    assert (document["a"], document["b"], document["log"]) == (str(bundles[0]), str(bundles[1]), tables[1])
    assert (document["candidates"], document["unknown"]) == (len(log), 1)
    # all that runs are compared by, but for what reads the truth
    names = [name_row(row) for row in document["rows"]]
    of_runs = [name_row(row) for row in corank.compare(runs[0].folder, runs[1].folder)["rows"]]
    assert names == [name for name in of_runs if name in names]
    assert not [name for name in set(of_runs) - set(names) if "exposed" in name or "click_recall" in name]
    for name, bundle in zip(("a", "b"), bundles, strict=True):
        corank.predict(bundle, tables[1], tmp_path / name, users=tables[3])
        m = load_manifest(bundle).stages[0].keep
        recall = document.row(f"prerank.cut.click_recall@{m}")[name]
        assert recall == pytest.approx(click_recall(tmp_path / name, m))
    scores = corank.compare(tmp_path / "a", tmp_path / "b", scores=["logit.rank.click"])
    auc = document.row("rank.exposed.click.auc")
    of_scores = scores.row("logit.rank.click.exposed.is_click.auc")
    assert (auc["a"], auc["b"]) == pytest.approx((of_scores["a"], of_scores["b"]))


def test_bundles_are_compared_on_no_row_whose_label_their_priors_count(tmp_path: Path) -> None:
    case = derived()
    assert case.funnel  # exports the bundle
    bundle, users = case.base / "bundle", str(case.base / "users.parquet")
    other = variant(bundle, tmp_path / "other", 2)
    log = pl.read_parquet(case.base / "log.parquet").unique(["request", "item_id"])
    earlier = log.filter(pl.col("time") < case.since)
    log.write_parquet(tmp_path / "log.parquet")
    earlier.write_parquet(tmp_path / "earlier.parquet")
    document = corank.compare(bundle, other, on=tmp_path / "log.parquet", users=users).document
    assert (document["earlier"], document["unknown"]) == (len(earlier), 0)
    assert document["candidates"] == len(log) - len(earlier) > 0
    with pytest.raises(DataError, match="all rows are from before 1970-01-04 00:00:00 UTC"):
        corank.compare(bundle, other, on=tmp_path / "earlier.parquet", users=users)


def test_one_thing_is_not_compared_with_itself(runs: tuple[Run, Run], tmp_path: Path) -> None:
    run = runs[0].folder
    (tmp_path / "link").symlink_to(run)
    for again in (run, tmp_path / "link", run / ".." / run.name):
        with pytest.raises(DataError, match="are the same; name another"):
            corank.compare(run, again)


def test_bundles_are_compared_on_one_log_alone(runs: tuple[Run, Run], tmp_path: Path) -> None:
    bundle, log = finished_bundle(), str(simulated_world() / "log" / "*.parquet")
    other = shutil.copytree(bundle, tmp_path / "other")
    with pytest.raises(DataError, match="bundles are compared on logged requests: name their table by --on"):
        corank.compare(bundle, other)
    with pytest.raises(
        DataError, match=r"--split applies to runs; bundles are compared .* log that --on names"
    ):
        corank.compare(bundle, other, split="test", on=log)
    with pytest.raises(DataError, match="--users and --events apply to bundles; leave them out"):
        corank.compare(runs[0].folder, runs[1].folder, users=log)
    manifest = load_manifest(bundle)
    renamed = manifest.model_copy(update={"data": manifest.data.model_copy(update={"item": "video"})})
    with pytest.raises(DataError, match=r"b: its data\.item is 'video', that of a 'item_id'"):
        require_same_log(Path("a"), manifest, Path("b"), renamed)
