"""Refreshing priors that count a table of events: it gives what packing all of it would have given."""

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
from corank.core.errors import DataError
from corank.evaluation.predict import predict_split
from corank.features.priors import PriorSnapshots
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.export import export_bundle
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.random_worlds import DAY, DERIVED, HOUR

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.of(tmp_path_factory.mktemp("case"), DERIVED | {"counted": True})


@pytest.fixture(scope="module")
def exported(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "bundle"
    early = replace(
        case.packed, manifest=case.packed.manifest.model_copy(update={"last": 2 * DAY + 5 * HOUR})
    )
    export_bundle(path, case.config, early, case.model, case.calibrators)
    return path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def counts(found: PriorSnapshots) -> dict[str, list[Any]]:
    return {
        name: [
            array.tolist() for array in (rates.keys, *vars(rates.counts).values(), *vars(rates.all).values())
        ]
        for name, rates in found.rates.items()
    }


def priors(bundle: Bundle) -> dict[str, list[Any]]:
    return counts(read_snapshots(bundle.folder, bundle.manifest))


def refresh(case: Case, bundle: Path, **settings: Any) -> Bundle:
    events = {"counted": str(case.base / "counted.parquet")}
    return corank.refresh(
        bundle,
        str(case.base / "log.parquet"),
        **({"users": str(case.base / "users.parquet"), "events": events} | settings),
    ).bundle


def event_priors(case: Case) -> set[str]:
    names = {name for name, prior in case.packed.schema.priors().items() if prior.events}
    assert len(names) == 3
    return names


@pytest.mark.parametrize(("until", "moment"), [(None, 4 * DAY - HOUR), ("1970-01-05", 4 * DAY)])
def test_counts_are_those_of_packing(case: Case, bundle: Path, until: str | None, moment: int) -> None:
    before = Bundle.open(bundle)
    old = priors(before)
    after = refresh(case, bundle, until=until)
    expected = case.packed.priors.as_of(case.packed.schema, moment)
    assert priors(after) == counts(expected)
    assert after.manifest.priors == expected.cut
    moved = {n for n in event_priors(case) if after.manifest.priors[n] > before.manifest.priors[n]}
    assert moved and {n for n in event_priors(case) if priors(after)[n] != old[n]} == moved


def test_days_one_after_another_are_all_at_once(case: Case, bundle: Path, tmp_path: Path) -> None:
    counted = pl.read_parquet(case.base / "counted.parquet")
    day = pl.col("at").cast(pl.Int64) // DAY
    for n in (2, 3):  # with the day before, of which some count late
        counted.filter(day.is_between(n - 1, n)).write_parquet(tmp_path / f"day{n}.parquet")
        after = refresh(
            case, bundle, until=f"1970-01-0{n + 2}", events={"counted": str(tmp_path / f"day{n}.parquet")}
        )
    assert priors(after) == counts(case.packed.priors.as_of(case.packed.schema, 4 * DAY))


def test_a_refreshed_funnel_scores_as_the_training_model_does(case: Case, bundle: Path) -> None:
    refresh(case, bundle, until="1970-01-04")
    funnel, theirs = Funnel.open(bundle), predict_split(case.model, case.packed, "test")
    start = theirs.requests.start
    for number in range(len(start) - 1):
        logits = funnel.logits(Request.parse(case.request("test", number)))
        for stage, labels in theirs.logits.items():
            for label, expected in labels.items():
                part = expit(expected[start[number] : start[number + 1]])
                np.testing.assert_allclose(expit(logits[stage][label]), part, atol=1e-5)


def test_the_command_takes_the_events_and_refuses_to_go_without(
    case: Case, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["refresh", bundle, case.base / "log.parquet", "--users", case.base / "users.parquet"]
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    code, _, error = run_corank(capsys, *command)
    message = "--events: the bundle makes priors of the events 'counted'; give counted=FILES"
    assert code == 1 and message in " ".join(error.split())
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    code, out, error = run_corank(capsys, *command, "--events", f"counted={case.base}/counted.parquet")
    assert code == 0 and "events counted" in " ".join((out + error).split())


def test_what_is_given_in_vain_or_unsound_is_refused(case: Case, bundle: Path, tmp_path: Path) -> None:
    counted = str(case.base / "counted.parquet")
    with pytest.raises(
        DataError, match=r"--events: the bundle reads no events 'views' for priors; it reads counted"
    ):
        refresh(case, bundle, events={"counted": counted, "views": counted})
    pl.read_parquet(counted).clear().write_parquet(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"data\.events\.counted: the table is empty"):
        refresh(case, bundle, events={"counted": str(tmp_path / "none.parquet")})
    pl.read_parquet(counted).with_columns(what=pl.lit("x")).write_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"data\.events\.counted: column 'what' is String; expected"):
        refresh(case, bundle, events={"counted": str(tmp_path / "text.parquet")})


def test_predict_needs_the_tables_of_histories_alone(case: Case, exported: Path, tmp_path: Path) -> None:
    log, users = str(case.base / "log.parquet"), str(case.base / "users.parquet")
    assert corank.predict(exported, log, tmp_path / "scores", users, as_served=True).candidates > 0
    with pytest.raises(
        DataError, match="--events: the bundle reads no events 'counted' for histories; it reads"
    ):
        sources = {"counted": str(case.base / "counted.parquet")}
        corank.predict(exported, log, tmp_path / "more", users, events=sources)
