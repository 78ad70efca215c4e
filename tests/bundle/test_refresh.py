"""Refreshing: a bundle brought forward by a newer log is what packing all of it would have given."""

import os
import re
import shutil
import subprocess
import sys
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
from corank.core.errors import DataError
from corank.core.ragged import Rows
from corank.evaluation.predict import predict_split
from corank.features.encoders import Encoders
from corank.features.priors import PriorCounts, PriorSnapshots
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.export import export_bundle
from corank.training.run import Run
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.exported_graphs import graphs_of
from tests.support.random_worlds import DAY, DERIVED, HOUR
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

BEGIN = 2 * DAY + 5 * HOUR
"""When the bundle's log ended: both the daily priors and those of two days are from the third midnight."""


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


def export_early(case: Case, path: Path) -> Path:
    early = replace(case.packed, manifest=case.packed.manifest.model_copy(update={"last": BEGIN}))
    with graphs_of(case.base / "bundle"):
        export_bundle(path, case.config, early, case.model, case.calibrators)
    return path


@pytest.fixture(scope="module")
def exported(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_early(case, tmp_path_factory.mktemp("exported") / "bundle")


def test_export_until_a_later_time_knows_the_last_day(case: Case, tmp_path: Path) -> None:
    last = case.packed.manifest.last
    until = (last // DAY + 1) * DAY
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    with graphs_of(case.base / "bundle"):
        export_bundle(plain, case.config, case.packed, case.model, case.calibrators)
        export_bundle(whole, case.config, case.packed, case.model, case.calibrators, until=until)
    cuts = [Bundle.open(path).manifest.priors for path in (plain, whole)]
    assert cuts[0] and all(cuts[0][name] <= last < cuts[1][name] <= until for name in cuts[0])
    known = case.packed.priors.as_of(case.config.declared, until)
    assert priors(Bundle.open(whole)) == counts(known) != priors(Bundle.open(plain))
    with pytest.raises(DataError, match="the log goes on until"):
        export_bundle(plain, case.config, case.packed, case.model, case.calibrators, until=last - 1)


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


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
    expected = case.packed.priors.as_of(case.packed.schema, moment)
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


def test_a_log_that_closes_no_later_period_changes_no_prior(case: Case, bundle: Path) -> None:
    said: list[str] = []
    before = Bundle.open(bundle)
    after = corank.refresh(
        bundle, str(case.base / "log.parquet"), until="1970-01-03T23:00", report=said.append
    ).bundle
    assert after.manifest.priors == before.manifest.priors
    assert priors(after) == priors(before)
    assert said == [
        f"{name}: still as of 1970-01-03 00:00:00 UTC; the log closes no later period"
        for name in case.packed.schema.priors()
    ]


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


def test_newer_items_bring_the_columns_of_a_value(case: Case, bundle: Path, tmp_path: Path) -> None:
    before = records(Bundle.open(bundle)).columns["worth"]
    newer, path = case.items[2:4].with_columns(worth=pl.Series([7.0, 9.0])), tmp_path / "items.parquet"
    newer.write_parquet(path)
    after = corank.refresh(bundle, str(case.base / "log.parquet"), str(path)).bundle
    assert records(after).columns["worth"].tolist() == [*before[:2], 7, 9, *before[4:]]
    newer.with_columns(worth=pl.Series([7.0, None])).write_parquet(path)
    with pytest.raises(
        DataError, match="column 'worth' is None at item_id=3; a value needs a number for every"
    ):
        corank.refresh(bundle, str(case.base / "log.parquet"), str(path))
    assert Bundle.open(bundle) == after


# Whole or not at all

FULL = """
import resource, sys
from pathlib import Path
import corank
from corank.core.errors import BundleError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    corank.refresh(Path(sys.argv[1]), sys.argv[2], until="1970-01-05")
except BundleError as error:
    print(error)
"""


@pytest.mark.thorough
def test_full_disk_leaves_the_bundle_untouched(case: Case, bundle: Path) -> None:
    before = content(bundle)
    command = [sys.executable, "-c", FULL, str(bundle), str(case.base / "log.parquet"), "10000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=os.environ)
    assert done.stderr == ""
    assert done.stdout.startswith(f"{bundle}: cannot be written: [Errno 27] File too large")
    left = content(bundle)
    assert {name: left[name] for name in before} == before
    assert Bundle.open(bundle).manifest.items_seq == 1


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


def test_a_mistake_of_the_command_line_is_one_line(
    bundle: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_corank(capsys, "refresh", bundle, case.base / "log.parquet", "--until", "soon")
    assert (code, out) == (1, "")
    said = "expected a day or a time, such as 2026-04-30 or 2026-04-30T06:00; received 'soon'"
    assert err == f"error: {said}\n"
    code, _, err = run_corank(capsys, "refresh", bundle, case.base / "none.parquet")
    assert code == 1 and err.startswith(f"error: {case.base}/none.parquet: no such file")


# Priors that count a table of events


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.of(tmp_path_factory.mktemp("case"), DERIVED | {"counted": True})


@pytest.fixture(scope="module")
def counting_bundle(counting: Case) -> Path:
    assert counting.funnel
    return export_early(counting, counting.base / "early")


def refresh(case: Case, bundle: Path, **settings: Any) -> Bundle:
    events = {"counted": str(case.base / "counted.parquet")}
    tables: dict[str, Any] = {"users": str(case.base / "users.parquet"), "events": events}
    return corank.refresh(bundle, str(case.base / "log.parquet"), **(tables | settings)).bundle


@pytest.mark.thorough
@pytest.mark.parametrize(("until", "moment"), [(None, 4 * DAY - HOUR), ("1970-01-05", 4 * DAY)])
def test_counts_of_events_are_those_of_packing(
    counting: Case, counting_bundle: Path, tmp_path: Path, until: str | None, moment: int
) -> None:
    before, schema = Bundle.open(counting_bundle), counting.packed.schema
    old = priors(before)
    bundle = Path(shutil.copytree(counting_bundle, tmp_path / "bundle"))
    after = refresh(counting, bundle, until=until)
    expected = counting.packed.priors.as_of(schema, moment)
    assert priors(after) == counts(expected)
    assert after.manifest.priors == expected.cut
    names = {name for name, prior in schema.priors().items() if prior.events}
    moved = {n for n in names if after.manifest.priors[n] > before.manifest.priors[n]}
    assert moved and {n for n in names if priors(after)[n] != old[n]} == moved


@pytest.mark.thorough
def test_days_of_events_one_after_another_are_all_at_once(
    counting: Case, counting_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(counting_bundle, tmp_path / "bundle"))
    counted = pl.read_parquet(counting.base / "counted.parquet")
    day = pl.col("at").cast(pl.Int64) // DAY
    for n in (2, 3):  # with the day before, of which some count late
        counted.filter(day.is_between(n - 1, n)).write_parquet(tmp_path / f"day{n}.parquet")
        events = {"counted": str(tmp_path / f"day{n}.parquet")}
        after = refresh(counting, bundle, until=f"1970-01-0{n + 2}", events=events)
    assert priors(after) == counts(counting.packed.priors.as_of(counting.packed.schema, 4 * DAY))


@pytest.mark.thorough
def test_events_that_are_missing_in_vain_or_unsound_are_refused(
    counting: Case, counting_bundle: Path, tmp_path: Path
) -> None:
    before = content(counting_bundle)
    counted = pl.read_parquet(counting.base / "counted.parquet")
    counted.write_parquet(tmp_path / "counted.parquet")
    counted.clear().write_parquet(tmp_path / "none.parquet")
    counted.with_columns(what=pl.lit("x")).write_parquet(tmp_path / "text.parquet")
    for events, message in (
        ({}, "--events: the bundle makes priors of the events 'counted'; give counted=FILES"),
        (
            {"counted": "counted", "views": "counted"},
            "--events: the bundle reads no events 'views' for priors; it reads counted",
        ),
        ({"counted": "none"}, "data.events.counted: the table is empty"),
        ({"counted": "text"}, "data.events.counted: column 'what' is String; expected"),
    ):
        files = {name: str(tmp_path / f"{file}.parquet") for name, file in events.items()}
        with pytest.raises(DataError, match=re.escape(message)):
            refresh(counting, counting_bundle, events=files)
    assert content(counting_bundle) == before
    log, users = str(counting.base / "log.parquet"), str(counting.base / "users.parquet")
    events = {"counted": str(tmp_path / "counted.parquet")}
    with pytest.raises(
        DataError, match="--events: the bundle reads no events 'counted' for histories; it reads"
    ):
        corank.predict(counting_bundle, log, tmp_path / "scores", users, events=events)
