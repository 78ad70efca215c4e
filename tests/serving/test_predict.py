"""`corank predict`: a log's predictions are what the bundle's funnel computes of the same requests."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.core.time import format_time
from corank.engine.base import open_engine
from corank.evaluation.predict import predict_split
from corank.funnel import predict
from corank.funnel.predict import predict_log
from corank.funnel.request import Request
from corank.training.packed_data import open_packed
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.engine_tasks import KillingPool
from tests.support.random_worlds import DERIVED, LISTED, Drawn
from tests.support.shared import shared_case


@pytest.fixture(
    scope="module",
    params=[DERIVED, pytest.param(LISTED, marks=pytest.mark.thorough)],
    ids=["derived", "listed"],
)
def case(request: pytest.FixtureRequest) -> Case:
    shared = shared_case(request.param)
    assert shared.funnel
    return shared


def tables_of_events(case: Case) -> dict[str, str]:
    """The files of the events that the bundle reads, by name."""
    return {name: str(case.base / f"{name}.parquet") for name in case.config.data.events}


def digest(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_predictions_are_those_of_the_funnel(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "PARTITION", 30)
    monkeypatch.setattr(predict, "RANGE", 25)
    bundle, *tables = (case.base / name for name in ("bundle", "log.parquet", "users.parquet"))
    log, users = map(str, tables)
    options: Any = {"events": tables_of_events(case), "as_served": True}
    done = predict_log(bundle, log, users, tmp_path / "in_line", open_engine(), **options)
    with KillingPool(tmp_path) as pool:
        assert predict_log(bundle, log, users, tmp_path / "pool", pool, **options) == done
    assert len(list(tmp_path.glob("killed.*"))) == 2
    assert digest(tmp_path / "in_line") == digest(tmp_path / "pool")
    assert len(digest(tmp_path / "pool")) > 2

    predictions, logged = pl.read_parquet(tmp_path / "pool"), pl.read_parquet(log)
    item, request = case.funnel.manifest.item, case.config.data.request
    assert (done.candidates, done.unknown) == (len(predictions), 0)
    assert len(predictions) == len(logged.unique([*request, item]))
    assert predictions.columns[: len(request)] == request and case.config.data.user in predictions.columns
    check_labels(case, predictions, logged)
    compared = 0
    for split, shards in case.packed.splits.items():
        keys = [shard.request_key(n) for shard in shards for n in range(len(shard))]
        for number, key in list(enumerate(keys))[::3]:
            mine = predictions.filter(pl.col(column) == value for column, value in key.items())
            compared += compare(case, case.request(split, number), mine)
    assert compared > 10


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("drawn", [DERIVED, LISTED | {"versions": True}], ids=["derived", "versions"])
def test_predictions_by_packed_data_are_those_of_an_evaluation(tmp_path: Path, drawn: Drawn) -> None:
    """Priors, ages and items are those of each request's time, long before the bundle was exported."""
    case = Case.of(tmp_path, drawn) if "versions" in drawn else shared_case(drawn)
    assert case.funnel
    bundle, log, users = (case.base / name for name in ("bundle", "log.parquet", "users.parquet"))
    options: Any = {"events": tables_of_events(case), "packed": partial(open_packed, case.config, case.base)}
    predict_log(bundle, str(log), str(users), tmp_path / "out", open_engine(), **options)
    strange = pl.read_parquet(log).sort("time").head(1)
    strange = strange.with_columns(item_id=pl.lit(999, strange["item_id"].dtype))
    strange.write_parquet(tmp_path / "strange.parquet")
    strangers = (str(tmp_path / "strange.parquet"), str(users), tmp_path / "unknown")
    done = predict_log(bundle, *strangers, open_engine(), **options)
    assert (done.candidates, done.unknown) == (1, 1)
    predictions, keys = pl.read_parquet(tmp_path / "out"), case.config.data.request
    assert (pl.read_parquet(case.base / "log.parquet")["time"] < case.since).any()
    for split, shards in case.packed.splits.items():
        evaluated, (shard,) = predict_split(case.model, case.packed, split).logits, shards
        items = case.packed.item_keys["item"].gather(shard.item)
        request = np.repeat(np.arange(len(shard)), np.diff(shard.request_start))
        rows = shard.keys[request].with_columns(items.alias(case.config.data.item))
        mine = rows.join(predictions, on=[*keys, case.config.data.item], how="left", maintain_order="left")
        for stage, labels in evaluated.items():
            for label, logits in labels.items():
                predicted = mine[f"logit.{stage}.{label}"].to_numpy()
                np.testing.assert_allclose(predicted, logits, atol=1e-4, err_msg=f"{split} {stage} {label}")


@pytest.mark.slow
def test_requests_are_predicted_together_as_alone_each_as_of_its_time(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, log, users = (case.base / name for name in ("bundle", "log.parquet", "users.parquet"))
    options: Any = {"events": tables_of_events(case), "packed": partial(open_packed, case.config, case.base)}
    reports, found = dict[int, list[tuple[int, int]]](), dict[int, pl.DataFrame]()
    for most in (1, 100):
        monkeypatch.setattr(predict, "REQUESTS", most)
        out, told = tmp_path / str(most), reports.setdefault(most, [])
        predict_log(
            bundle,
            str(log),
            str(users),
            out,
            open_engine(),
            lambda *of, told=told: told.append(of),
            **options,
        )
        found[most] = pl.read_parquet(out)
    alone, together = found.values()
    requests, rows = alone.n_unique(case.config.data.request), len(pl.read_parquet(log))
    assert len(reports[1]) == requests + 1 and len(reports[100]) <= requests / 10
    assert all(told == sorted(told) and told[-1] == (rows, rows) for told in reports.values())
    scores = r"^(logit|probability|value)\..*$"
    assert alone.select(pl.exclude(scores)).equals(together.select(pl.exclude(scores)))
    for column in alone.select(pl.col(scores)).columns:
        np.testing.assert_allclose(together[column], alone[column], atol=1e-5, err_msg=column)


def test_of_requests_predicted_together_an_error_names_the_one_at_fault(case: Case, tmp_path: Path) -> None:
    log = pl.read_parquet(case.base / "log.parquet")
    request = case.config.data.request
    fault = log.filter(pl.col("time") >= case.since)[-1].select(request).row(0, named=True)
    at_fault = pl.all_horizontal(pl.col(c) == value for c, value in fault.items())
    log.with_columns(pl.when(~at_fault).then("bid")).write_parquet(tmp_path / "log.parquet")
    users, events = str(case.base / "users.parquet"), tables_of_events(case)
    name = ", ".join(f"{column}={value!r}" for column, value in fault.items())
    with pytest.raises(DataError, match=f"request {name}: candidates: .* has no number 'bid'"):
        predict_log(
            case.base / "bundle", str(tmp_path / "log.parquet"), users, tmp_path / "out", open_engine(),
            events=events, as_served=True,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_bundle_refuses_rows_whose_labels_its_priors_count(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = pl.read_parquet(case.base / "log.parquet")
    earlier, later = (log.filter((pl.col("time") >= case.since) == on) for on in (False, True))
    for name, rows in (("log", log), ("later", later)):
        rows.write_parquet(tmp_path / f"{name}.parquet")
    options = [f"--events={name}={file}" for name, file in tables_of_events(case).items()]
    options += ["--users", str(case.base / "users.parquet")]
    code, _, err = run_corank(
        capsys, "predict", case.base / "bundle", tmp_path / "log.parquet", tmp_path / "out", *options
    )
    assert code == 1 and not (tmp_path / "out").exists()
    assert f"data.log: {len(earlier)} rows are from before {format_time(case.since)}" in " ".join(err.split())
    place = (tmp_path / "later.parquet", tmp_path / "of_later", *options)
    code, _, err = run_corank(capsys, "predict", case.base / "bundle", *place)
    assert code == 0, err


def check_labels(case: Case, found: pl.DataFrame, logged: pl.DataFrame) -> None:
    """Labels and levels of predictions are the log's, and null where nothing was shown."""
    data = case.config.data
    keys = [*data.request, data.item]
    logged = logged.unique(keys, keep="first", maintain_order=True)
    both = found.join(logged, on=keys, suffix=" of the log", maintain_order="left")
    assert data.level and (both[data.level] == both[f"{data.level} of the log"].cast(pl.String)).all()
    shown = both[data.level] == data.levels[-1]
    for label in data.labels.values():
        known = shown
        if label.given is not None:
            known = known & (both[data.labels[label.given].column] == 1).fill_null(False)
        logged_values = both[f"{label.column} of the log"].cast(pl.Float64).to_numpy()
        expected = np.where(known.to_numpy(), logged_values, np.nan)
        np.testing.assert_array_equal(both[label.column].cast(pl.Float64).to_numpy(), expected)
        assert known.any() and not known.all()


def compare(case: Case, document: dict[str, Any], predicted: pl.DataFrame) -> int:
    """Compare the predictions of a request with what the funnel answers, when no stage cuts."""
    stages = case.funnel.manifest.stages
    keep = {stage.name: len(predicted) for stage in stages if stage.min_score is None}
    trace = case.funnel.rank(Request.parse(document | {"keep": keep, "trace": True}))["trace"]
    logits = case.funnel.logits(Request.parse(document))
    row = {id_: n for n, id_ in enumerate(predicted[case.funnel.manifest.item].to_list())}
    mine = predicted[[row.pop(entry["id"]) for entry in trace]]
    assert not row
    for stage in stages:
        for label in stage.labels:
            logit = mine[f"logit.{stage.name}.{label}"].to_numpy()
            np.testing.assert_allclose(logit, logits[stage.name][label], atol=1e-5)
            calibrated = case.calibrators[stage.name][label].apply(logit)
            probability = mine[f"probability.{stage.name}.{label}"].to_numpy()
            np.testing.assert_allclose(probability, calibrated, atol=1e-6)
        for entry, value in zip(trace, mine[f"value.{stage.name}"], strict=True):
            if stage.name in entry["stages"]:
                assert abs(entry["stages"][stage.name]["score"] - value) < 1e-5
    return 1


def test_unknown_items_have_no_predictions(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item = case.funnel.manifest.item
    log = pl.read_parquet(case.base / "log.parquet").sort("request", maintain_order=True)
    strange = pl.Series(item, ["i999" if log[item].dtype == pl.String else 999], dtype=log[item].dtype)
    both = pl.concat([log[:1].with_columns(strange), log])
    both.write_parquet(tmp_path / "log.parquet")
    out = tmp_path / "out"
    events = [f"--events={name}={case.base / name}.parquet" for name in case.config.data.events]
    options = (tmp_path / "log.parquet", out, "--users", case.base / "users.parquet", *events, "--as-served")
    code, _, err = run_corank(capsys, "predict", case.base / "bundle", *options)
    assert code == 0 and "of which the bundle does not know 1" in err and "memory: at most" in err
    predictions = pl.read_parquet(out)
    missing = predictions.filter(pl.any_horizontal(pl.col(r"^(logit|value|probability)\..*$").is_null()))
    assert missing[item].to_list() == strange.to_list()
    code, _, err = run_corank(capsys, "predict", case.base / "bundle", *options)
    assert code == 1 and "exists and is not an empty folder" in err


@pytest.mark.parametrize(
    ("change", "users", "message"),
    [
        (lambda log: log.drop("context_0"), True, "data.log: no column 'context_0'"),
        (lambda log: log.head(0), True, "data.log: has no rows"),
        (lambda log: log, False, r"--users: the bundle reads .*user_0"),
    ],
)
def test_a_log_that_does_not_fit_is_refused_and_nothing_written(
    case: Case, tmp_path: Path, change: Any, users: bool, message: str
) -> None:
    change(pl.read_parquet(case.base / "log.parquet")).write_parquet(tmp_path / "log.parquet")
    table = str(case.base / "users.parquet") if users else None
    log, events = str(tmp_path / "log.parquet"), tables_of_events(case)
    with pytest.raises(DataError, match=message):
        corank.predict(case.base / "bundle", log, tmp_path / "out", table, events=events, as_served=True)
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1
