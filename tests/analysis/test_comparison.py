"""`corank compare`: paired differences of two runs on the same candidates."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import corank
from corank.analysis.comparison import compare_measures
from corank.analysis.margins import Margins
from corank.core.errors import DataError
from corank.core.types import Doubles
from corank.evaluation.measures import Measures
from corank.metrics.measure import Keys
from corank.metrics.point import auc, logloss, pcoc
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.shared import finished_bundle, finished_run, simulated_world
from tests.support.simulated_runs import trained_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    other = trained_run(
        simulated_world() / "config.yaml", tmp_path_factory.mktemp("other") / "run", "train.seed=7"
    )
    return finished_run(), other


def test_a_run_against_itself_differs_by_nothing(runs: tuple[Run, Run]) -> None:
    document = corank.compare(runs[0].folder, runs[0].folder)
    found = document["stages"]["rank"]["exposed"]["click"]
    assert {(one["difference"], one["low"], one["high"], one["verdict"]) for one in found.values()} == {
        (0, 0, 0, "no difference shown")
    }
    assert document["cascade"] and document["cuts"]["prerank"]


def test_values_are_those_of_evaluate_and_signs_turn(runs: tuple[Run, Run]) -> None:
    one, other = (corank.evaluate(run.folder, bootstrap=False)["stages"] for run in runs)
    forth, back = (
        corank.compare(runs[0].folder, runs[1].folder),
        corank.compare(runs[1].folder, runs[0].folder),
    )
    for stage in ("prerank", "rank"):
        for metric, found in forth["stages"][stage]["exposed"]["click"].items():
            values = (one[stage]["exposed"]["click"][metric], other[stage]["exposed"]["click"][metric])
            assert (found["a"], found["b"]) == values
            turned = back["stages"][stage]["exposed"]["click"][metric]
            assert turned["difference"] == -found["difference"]
            assert (turned["low"], turned["high"]) == (
                pytest.approx(-found["high"]),
                pytest.approx(-found["low"]),
            )
            words = {"better": "worse", "worse": "better", "no difference shown": "no difference shown"}
            assert turned["verdict"] == words[found["verdict"]]


def _measures(user: Keys, p: Doubles, label: NDArray[np.int8]) -> Measures:
    return {"auc": auc(user, p, label), "logloss": logloss(user, p, label), "pcoc": pcoc(user, p, label)}


def test_a_verdict_follows_the_direction_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    user, p = rng.integers(200, size=4000), rng.random(4000)
    label = (rng.random(4000) < p).astype(np.int8)
    good, bad = p, np.clip(p * 0.5 + 0.4 * rng.random(4000), 0.01, 0.99)
    ours, theirs = _measures(user, good, label), _measures(user, bad, label)
    found = compare_measures("exposed", ours, theirs, Margins())
    assert {name: one["verdict"] for name, one in found.items()} == dict.fromkeys(found, "better")
    assert found["logloss"]["difference"] < 0 < found["auc"]["difference"]
    found = compare_measures("exposed", theirs, ours, Margins())
    assert {one["verdict"] for one in found.values()} == {"worse"}


def test_the_interval_is_paired(runs: tuple[Run, Run]) -> None:
    found = corank.compare(runs[0].folder, runs[1].folder)["stages"]["rank"]["exposed"]["click"]["auc"]
    alone = corank.evaluate(runs[0].folder)["interval"]["stages"]["rank"]["exposed"]["click"]["auc"]
    assert found["high"] - found["low"] < alone[1] - alone[0]


def test_a_verdict_needs_an_interval_beyond_the_margin() -> None:
    rng = np.random.default_rng(0)
    user, p = rng.integers(200, size=4000), rng.random(4000)
    label = (rng.random(4000) < p).astype(np.int8)
    sharp, dull = _measures(user, p, label), _measures(user, np.clip(p + 0.4 * rng.random(4000), 0, 1), label)
    gain = compare_measures("exposed", sharp, dull, Margins())["auc"]["difference"]
    found = {
        margin: compare_measures("exposed", dull, sharp, Margins(0.9, {"auc": margin}))["auc"]
        for margin in (0.0, gain, 3 * gain)
    }
    assert [one["verdict"] for one in found.values()] == [
        "worse",
        "no difference shown",
        "no difference shown",
    ]
    assert [one["not_worse"] for one in found.values()] == [False, False, True]
    assert compare_measures("exposed", sharp, dull, Margins())["auc"]["verdict"] == "better"


def test_other_candidates_with_other_scales_are_refused(runs: tuple[Run, Run], tmp_path: Path) -> None:
    config = simulated_world() / "config.yaml"
    split = "data.split={valid: 2026-03-08, test: 2026-03-09}"
    other = trained_run(config, tmp_path / "run", split, f"packed={tmp_path / 'packed'}")
    with pytest.raises(DataError, match="its scales, buckets or hashes are others"):
        corank.compare(runs[0].folder, other.folder)


def test_the_command_prints_a_table_and_writes_a_page(
    runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, text, _ = run_corank(capsys, "compare", runs[0].folder, runs[1].folder, "--page", page)
    assert code == 0 and "rank: click, exposed" in text and "a minus b" in text
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    _, text, _ = run_corank(capsys, "compare", runs[0].folder, runs[1].folder, "--json")
    assert json.loads(text)["a"] == str(runs[0].folder)


def test_bundles_are_compared_on_logged_requests(
    runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each scores the log as `corank predict` writes it."""
    world, bundles = simulated_world(), [finished_bundle(), tmp_path / "other"]
    corank.export(runs[1].folder, bundles[1])
    tables = ["--on", str(world / "log" / "*.parquet"), "--users", str(world / "users.parquet")]
    code, text, error = run_corank(capsys, "compare", *bundles, *tables, "--margin", "0.9", "--json")
    assert code == 0, error
    document = json.loads(text)
    assert (document["a"], document["b"]) == (str(bundles[0]), str(bundles[1]))
    assert document["log"] == tables[1] and document["candidates"] + document["unknown"] == 36000
    for name, bundle in zip(("a", "b"), bundles, strict=True):
        corank.predict(bundle, tables[1], tmp_path / name, users=tables[3])
    plain = corank.compare(tmp_path / "a", tmp_path / "b", margin=0.9)
    assert document["stages"] == plain.document["stages"]
    assert run_corank(capsys, "compare", *bundles, *tables)[0] == 0
    with pytest.raises(DataError, match="bundles are compared on logged requests: name their table by --on"):
        corank.compare(bundles[0], bundles[1])
    with pytest.raises(
        DataError, match="--split is of runs; bundles are compared on the log that --on names"
    ):
        corank.compare(bundles[0], bundles[1], split="test", on=tables[1])
    with pytest.raises(DataError, match="--users and --events are of bundles; leave them out for runs"):
        corank.compare(runs[0].folder, runs[1].folder, users=tables[3])
