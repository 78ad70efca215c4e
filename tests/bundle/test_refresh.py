"""Refreshing: a bundle brought forward by a newer log is what packing all of it would have given."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.content import read_snapshots
from corank.bundle.item_records import ItemRecords
from corank.core.ragged import Rows
from corank.evaluation.predict import predict_split
from corank.features.encoders import Encoders
from corank.features.priors import PriorCounts, PriorSnapshots
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.export import export_bundle
from corank.training.run import Run
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.random_worlds import DAY, DERIVED, HOUR
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow

BEGIN = 2 * DAY + 5 * HOUR
"""When the bundle's log ended: both the daily priors and those of two days are from the third midnight."""


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


def export_early(case: Case, path: Path) -> Path:
    early = replace(case.packed, manifest=case.packed.manifest.model_copy(update={"last": BEGIN}))
    export_bundle(path, case.config, early, case.model, case.calibrators)
    return path


@pytest.fixture(scope="module")
def exported(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_early(case, tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def counts(found: PriorSnapshots) -> dict[str, list[Any]]:
    def plain(rates: PriorCounts) -> list[Any]:
        arrays = [rates.keys, *vars(rates.counts).values(), *vars(rates.all).values()]
        return [array.tolist() for array in arrays]

    return {name: plain(rates) for name, rates in found.rates.items()}


def priors(bundle: Bundle) -> dict[str, list[Any]]:
    return counts(read_snapshots(bundle.folder, bundle.manifest))


def records(bundle: Bundle) -> ItemRecords:
    encoders = Encoders.load(bundle.folder / "encoders", bundle.manifest.declared)
    return ItemRecords.load(bundle.folder / "items", encoders, bundle.manifest.item_columns)


def plain(rows: Rows) -> list[Any]:
    lists = [[values.length.tolist(), values.flat().tolist()] for values in rows.lists]
    return [rows.ids.tolist(), rows.numbers.tolist(), lists]


# All of a log


@pytest.mark.parametrize(("until", "moment"), [(None, 4 * DAY - HOUR), ("1970-01-06T07:30", 5 * DAY)])
def test_priors_are_those_that_packing_counts(
    case: Case, bundle: Path, until: str | None, moment: int
) -> None:
    before = Bundle.open(bundle)
    after = corank.refresh(bundle, str(case.base / "log.parquet"), until=until).bundle
    expected = case.packed.priors.as_of(case.packed.schema.snapshots(), case.packed.schema.priors(), moment)
    assert priors(after) == counts(expected) != priors(before)
    assert after.manifest.priors == expected.cut
    assert set(after.manifest.priors.values()) == {moment // DAY * DAY, moment // (2 * DAY) * (2 * DAY)}
    assert after.manifest.model_version == before.manifest.model_version
    assert (before.manifest.items_seq, after.manifest.items_seq) == (1, 2)


def test_a_refreshed_funnel_scores_as_the_training_model_does(case: Case, bundle: Path) -> None:
    stale, asked = Funnel.open(bundle), case.request("test", 3)
    answer = stale.rank(asked)
    corank.refresh(bundle, str(case.base / "log.parquet"), until="1970-01-04")
    assert stale.rank(asked) == answer  # who reads the content before still can
    fresh, theirs = Funnel.open(bundle), predict_split(case.model, case.packed, "test")
    start, far = theirs.requests.start, 0.0
    for number in range(len(start) - 1):
        request = Request.parse(case.request("test", number))
        for stage, labels in theirs.logits.items():
            for label, logits in labels.items():
                ours, olds = (expit(f.logits(request)[stage][label]) for f in (fresh, stale))
                expected = expit(logits[start[number] : start[number + 1]])
                np.testing.assert_allclose(ours, expected, atol=1e-5)
                far = max(far, np.abs(olds - expected).max())
    assert far > 0.01


def test_days_one_after_another_are_all_at_once(case: Case, bundle: Path, tmp_path: Path) -> None:
    """Each with the day before, of which some clicks came late."""
    log, whole = pl.read_parquet(case.base / "log.parquet"), Path(shutil.copytree(bundle, tmp_path / "whole"))
    days = {str(day): some for (day,), some in log.group_by(pl.col("time") // DAY, maintain_order=True)}
    days["2"] = pl.concat([days["2"], days["2"][::-3]])  # duplicates count once
    for day in "123":
        days[day].write_parquet(tmp_path / f"day{day}.parquet")
    corank.refresh(bundle, f"{tmp_path}/day[12].parquet", until="1970-01-04")
    pieces = corank.refresh(bundle, f"{tmp_path}/day[23].parquet", until="1970-01-05").bundle
    once = corank.refresh(whole, str(case.base / "log.parquet"), until="1970-01-05").bundle
    assert priors(pieces) == priors(once)
    assert plain(records(pieces).rows) == plain(records(once).rows)
    assert (pieces.manifest.items_seq, once.manifest.items_seq) == (3, 2)


# Without priors


def test_a_bundle_without_priors_renews_its_items_and_vectors(
    trained: Run, trained_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(trained_bundle, tmp_path / "bundle"))
    items = pl.read_parquet(trained.base / "items.parquet")
    before, old = Bundle.open(bundle), items["item_id"][3]
    items[5:6].with_columns(item_id=pl.lit(old)).write_parquet(tmp_path / "items.parquet")
    log = trained.base / "log" / "*.parquet"
    code, out, err = run_corank(capsys, "refresh", bundle, log, "--items", tmp_path / "items.parquet")
    after, version = Bundle.open(bundle), before.manifest.model_version
    assert (code, out) == (0, "")
    assert err == (
        f"items: 1 replaced, 0 new\nbundle: {bundle}  model {version}  items 2\n"
        "prerank: one graph over item parts: vector (8 numbers)\n"
        "rank: one graph over item parts: item (16 numbers)\n"
        "histories are not in the bundle: requests carry them, or a store of users has them\n"
    )
    assert after.manifest.model_version == version
    vectors = [np.load(b.folder / "items" / "part.prerank.vector.npy") for b in (before, after)]
    changed = np.flatnonzero(np.abs(vectors[1] - vectors[0]).max(1) > 1e-6)
    assert changed.tolist() == records(after).ids.find(pl.Series([old])).tolist()
