"""A funnel trained period by period: what goes live, what is refused and why, and what a call changes."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.manifest import ItemsAsOf
from corank.core.errors import ConfigError, DataError, StoreError
from corank.features.split import RangeSplit
from corank.training.config.yaml_values import read_yaml_file
from corank.training.run import Run
from corank_continual.periods.history import DailyHistory, PeriodRecord
from corank_serve.http.follower import Follower, sample_requests
from corank_serve.store.base import open_store
from corank_serve.store.source import StoreSource
from tests.support.command_line import run_corank
from tests.support.daily_world import write_daily_world
from tests.support.shared import finished_bundle, shared

GATE = ["rank.exposed.click.auc >= live - 0.3", "rank.exposed.click.pcoc in [0.2, 5]"]
SETTINGS: dict[str, Any] = {
    "config": "config.yaml",
    "first": "2026-03-07",
    "holdout": "4h",
    "gate": GATE,
    "verify": 2,
    "store": "lmdb:store",
    "users": "users.parquet",
}
DAYS = ["2026-03-07", "2026-03-08", "2026-03-09", "2026-03-10"]


def write_settings(folder: Path, **changes: Any) -> Path:
    path = folder / "daily.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | changes), encoding="utf-8")
    return path


def _first_day(folder: Path) -> None:
    """A small world of ten days, whose log ends with the first period, and its first model."""
    from tests.support.shared import simulated_world

    for name in ("items.parquet", "users.parquet"):
        shutil.copy(simulated_world() / name, folder / name)
    config = read_yaml_file(simulated_world() / "config.yaml")
    del config["data"]["truth"]
    config["train"] |= {"epochs": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "log").mkdir()
    log = pl.read_parquet(simulated_world() / "log" / "*.parquet")
    for day in [None, *DAYS]:
        of_day = log["time"].dt.strftime("%Y-%m-%d")
        rows = log.filter(of_day < DAYS[0] if day is None else of_day == day)
        (folder / "days").mkdir(exist_ok=True)
        rows.write_parquet(folder / "days" / f"{day or 'before'}.parquet")
    deliver(folder, "before")
    deliver(folder, DAYS[0])
    corank.daily(write_settings(folder))


def deliver(
    folder: Path, day: str, change: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows
) -> None:
    """Add a day to the log, as it is or changed."""
    change(pl.read_parquet(folder / "days" / f"{day}.parquet")).write_parquet(
        folder / "log" / f"{day}.parquet"
    )


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return shutil.copytree(shared("daily_first_day", _first_day), tmp_path / "shop")


@pytest.fixture
def two_days(tmp_path: Path) -> Path:
    """The world with its second day live, too."""

    def second_day(folder: Path) -> None:
        shop = shutil.copytree(shared("daily_first_day", _first_day), folder / "shop")
        deliver(shop, DAYS[1])
        assert corank.daily(shop / "daily.yaml").refused is None

    return shutil.copytree(shared("daily_second_day", second_day) / "shop", tmp_path / "shop")


@contextmanager
def served(folder: Path, record: PeriodRecord | None = None) -> Iterator[None]:
    """A service of the store that finally answers as before, or with the model of an earlier period."""
    follower = Follower(StoreSource(open_store(f"lmdb:{folder / 'store'}"), folder / "cache"))
    (request, *_) = sample_requests(follower.funnel)
    before = follower.funnel.rank(request)
    yield
    follower.refresh()
    after = follower.funnel.rank(request)
    assert follower.trouble is None and after["items"]
    assert after["model_version"] == (record.model if record else before["model_version"])
    assert record or after["items"] == before["items"]
    follower.stop()


def live_version(folder: Path) -> str:
    (live,) = (
        entry["version"] for entry in corank.store_versions(f"lmdb:{folder / 'store'}") if entry["live"]
    )
    return str(live)


def in_hour(rows: pl.DataFrame, number: int) -> pl.DataFrame:
    """Rows of a day as rows of the n-th hour of the second, in the same order."""
    since = (pl.col("time") - pl.col("time").dt.truncate("1d")) / 24
    start = pl.lit(f"{DAYS[1]}T{number:02}:00").str.to_datetime(time_zone="UTC")
    return rows.with_columns((start + since).alias("time"))


@pytest.mark.slow
def test_each_period_goes_on_from_the_one_before_and_a_second_call_changes_nothing(world: Path) -> None:
    """By the hour, after a first day: each hour gets the rows of a day."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for n, day in enumerate(DAYS[1:3]):
        deliver(world, day, lambda rows, n=n: in_hour(rows, n))  # type: ignore[misc]
    config = read_yaml_file(world / "config.yaml")
    config["drift"] = dict.fromkeys(("rows", "psi", "new_ids", "missing"))  # of a day against an hour
    config["baseline"] = True
    (world / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_settings(world, period="1h", holdout="10m", first=DAYS[1], keep=1)
    names = [DAYS[0], f"{DAYS[1]}T00", f"{DAYS[1]}T01"]
    result = corank.daily(world / "daily.yaml", items_as_of="1")
    assert [(r.period, r.decision) for r in result.records] == [(name, "live") for name in names]
    assert [r.end - (r.until or 0) for r in result.records[1:]] == [600_000] * 2
    first, second, third = result.records
    assert first.since is None and (second.since, third.since) == (first.until, second.until)
    assert first.live == {} and 0.3 < second.live["rank.exposed.click.auc"] < 1
    assert second.rows["train"] < first.rows["train"] / 2
    assert live_version(world) == third.version
    stored = [entry["version"] for entry in corank.store_versions(f"lmdb:{world / 'store'}")]
    assert stored == [second.version, third.version], "the first is older than the one beside the live one"
    bundle = Bundle.open(world / "daily" / "periods" / third.period / "bundle")
    assert bundle.manifest.items_as_of == ItemsAsOf(change=1)
    run = Run.open(world / "daily" / "periods" / third.period / "run")
    assert not run.config.baseline, "no period waits for boosted trees"
    files = {path: path.stat().st_mtime_ns for path in world.rglob("*.json")}
    again = corank.daily(world / "daily.yaml")
    assert again.records == result.records
    assert {path: path.stat().st_mtime_ns for path in files} == files
    board = EventAccumulator(str(world / "daily" / "events")).Reload()
    figure = "candidate/rank.exposed.click.auc"
    points = [(event.step, event.wall_time, event.value) for event in board.Scalars(figure)]
    for point, (n, record) in zip(points, enumerate(result.records), strict=True):
        assert point == pytest.approx((n, record.begin / 1000, record.candidate["rank.exposed.click.auc"]))
    assert len(board.Scalars("seconds/total")) == 3 and len(board.Scalars("rows/train")) == 3
    assert len(list((world / "daily" / "events").iterdir())) == 3
    page = result.page.read_text(encoding="utf-8")
    assert all(name in page for name in names)
    assert result.tables["periods"]["decision"].to_list() == ["live"] * 3


def lose_half(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("request_id").hash(0) % 2 == 0)


def lose_a_feature(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit(None, rows["device"].dtype).alias("device"))


def name_another_level(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("level").replace("ranked", "reranked"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lose_a_feature, "device"),
        (name_another_level, "'reranked'"),
    ],
    ids=["a feature all missing", "an unknown level"],
)
def test_a_bad_day_is_refused_before_training_and_serving_goes_on(
    world: Path, change: Callable[[pl.DataFrame], pl.DataFrame], reason: str
) -> None:
    before = live_version(world)
    deliver(world, DAYS[1], change)
    with served(world):
        refused = corank.daily(world / "daily.yaml").refused
    assert refused is not None and refused.decision == "refused by validation"
    assert any(reason in line for line in refused.reasons)
    assert live_version(world) == before and not (world / "daily" / "periods" / DAYS[1] / "run").exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_skipped_period_is_not_trained_and_the_next_begins_after_the_live_one(world: Path) -> None:
    deliver(world, DAYS[1], lose_half)
    deliver(world, DAYS[2])
    result = corank.daily(world / "daily.yaml", skip=[DAYS[1]])
    assert [r.decision for r in result.records] == ["live", "skipped", "live"]
    assert result.records[2].since == result.records[1].end


@pytest.mark.slow
def test_rows_that_arrive_while_the_first_period_trains_are_of_the_next(tmp_path: Path, world: Path) -> None:
    """Files arrive all the time: each minute of a minute loop, and hours of them while the whole log is trained."""
    for name in ("items.parquet", "users.parquet", "config.yaml"):
        shutil.copy(world / name, tmp_path / name)
    shutil.copytree(world / "days", tmp_path / "days")
    (tmp_path / "log").mkdir()
    deliver(tmp_path, "before")
    deliver(tmp_path, DAYS[0])

    said = list[str]()

    def arrive(line: str) -> None:
        said.append(line)
        if line == f"{DAYS[0]}: training":
            deliver(tmp_path, DAYS[1])

    assert corank.daily(write_settings(tmp_path), report=arrive).refused is None
    assert any(
        "trained on as it was packed, since others go on from it (data.log: other files" in s for s in said
    )
    assert corank.daily(tmp_path / "daily.yaml").refused is None
    first, second = DailyHistory(tmp_path / "daily").records
    assert (first.decision, second.decision) == ("live", "live")
    assert first.rows == DailyHistory(world / "daily").records[0].rows


@pytest.mark.thorough
@pytest.mark.slow
def test_the_page_of_a_comparison_is_drawn_when_the_candidate_serves(two_days: Path) -> None:
    period = two_days / "daily" / "periods" / DAYS[1]
    page, published = period / "comparison.html", period / "publish.json"
    assert published.stat().st_mtime_ns < page.stat().st_mtime_ns
    assert "<svg" in page.read_text()


@pytest.mark.thorough
@pytest.mark.slow
def test_after_a_rollback_nothing_is_trained_until_the_period_is_undone(two_days: Path) -> None:
    """The fault of the day is then fixed, and it is trained once more, from the day before."""
    first, second = DailyHistory(two_days / "daily").records
    store, settings = f"lmdb:{two_days / 'store'}", two_days / "daily.yaml"
    corank.roll_back(store)
    deliver(two_days, DAYS[2])
    with pytest.raises(
        StoreError, match=rf"serves the model of {DAYS[0]}, and {DAYS[1]} is live in .*--undo {DAYS[1]}"
    ):
        corank.daily(settings)
    assert DailyHistory(two_days / "daily").records == [first, second]
    result = corank.daily(settings, undo=DAYS[1])
    assert [r.decision for r in result.records] == ["live", "undone", "live"]
    assert result.records[2].since == second.end and live_version(two_days) == result.records[2].version
    begun = json.loads((two_days / "daily" / "periods" / DAYS[2] / "begin.json").read_text(encoding="utf-8"))
    assert begun["result"]["live"] == DAYS[0]
    with pytest.raises(DataError, match=f"{DAYS[2]} went live since; `--undo {DAYS[2]}` comes first"):
        corank.daily(settings, retry=[DAYS[1]])
    said: list[str] = []
    result = corank.daily(settings, undo=DAYS[2], retry=[DAYS[1]], report=said.append)
    assert f"{DAYS[2]}: undone; {DAYS[0]} is live again" in said
    assert [r.decision for r in result.records] == ["live", "live", "undone"]
    assert live_version(two_days) == result.records[1].version
    # the rows are those of the first time, and so is the model
    assert result.records[1].model == second.model


@pytest.mark.thorough
@pytest.mark.slow
def test_the_store_goes_back_with_the_history_and_a_stranger_in_it_is_told(two_days: Path) -> None:
    first, second = DailyHistory(two_days / "daily").records
    store, settings = f"lmdb:{two_days / 'store'}", two_days / "daily.yaml"
    # refreshed and published by hand, it is still the model of the period
    refreshed = shutil.copytree(two_days / "daily" / "periods" / DAYS[1] / "bundle", two_days / "bundle")
    corank.refresh(refreshed, str(two_days / "log" / "*.parquet"))
    corank.publish(refreshed, store)
    said: list[str] = []
    corank.daily(settings, report=said.append)
    assert said == [] and live_version(two_days) != second.version
    with served(two_days, first):
        corank.daily(settings, undo=DAYS[1])
    assert [r.decision for r in DailyHistory(two_days / "daily").records] == ["live", "undone"]
    assert corank.daily(settings, undo=DAYS[1]).live == first, "it is undone already"
    corank.promote(store, str(second.version))
    with pytest.raises(
        StoreError, match=rf"serves the model of {DAYS[1]}, .*`--undo {DAYS[1]}` goes back in both"
    ):
        corank.daily(settings)
    corank.daily(settings, undo=DAYS[1])
    assert live_version(two_days) == first.version
    corank.publish(finished_bundle(), store)
    corank.daily(settings, report=said.append)
    assert any("which is of no period; candidates go on from 2026-03-07" in line for line in said)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_rollback_to_a_stranger_ends_the_call_and_each_rollback_goes_further_back(two_days: Path) -> None:
    first, second = DailyHistory(two_days / "daily").records
    store, settings = f"lmdb:{two_days / 'store'}", two_days / "daily.yaml"
    stranger = corank.publish(finished_bundle(), store).version
    corank.promote(store, str(second.version))
    assert corank.roll_back(store) == stranger
    with pytest.raises(
        StoreError, match=rf"of no period, since {DAYS[1]} was rolled back, .*`--undo {DAYS[1]}`"
    ):
        corank.daily(settings)
    corank.promote(store, str(second.version))
    assert corank.daily(settings).live == second
    # a second roll-back does not make live again what the first one undid
    assert [corank.roll_back(store), corank.roll_back(store)] == [stranger, first.version]
    with pytest.raises(StoreError, match=rf"serves the model of {DAYS[0]}, and {DAYS[1]} is live in"):
        corank.daily(settings)


def test_what_cannot_be_undone_stays_as_it_is(world: Path) -> None:
    settings, before = world / "daily.yaml", live_version(world)
    for period, reason in {
        DAYS[0]: f"no period before {DAYS[0]} is live",
        DAYS[1]: f"no period {DAYS[1]}",
    }.items():
        with pytest.raises(DataError, match=reason):
            corank.daily(settings, undo=period)
    assert DailyHistory(world / "daily").records[0].decision == "live" and live_version(world) == before


@pytest.mark.thorough
def test_a_period_is_not_undone_if_the_run_before_it_is_gone(two_days: Path) -> None:
    before = live_version(two_days)
    shutil.rmtree(two_days / "daily" / "periods" / DAYS[0] / "run")
    with pytest.raises(DataError, match=f"the run of {DAYS[0]}, to which one would go back, is gone; `keep`"):
        corank.daily(two_days / "daily.yaml", undo=DAYS[1])
    assert live_version(two_days) == before and len(DailyHistory(two_days / "daily").records) == 2


def test_a_period_that_is_not_due_cannot_be_accepted(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"period 2026-03-08: not due, or decided already; due are none"):
        corank.daily(world / "daily.yaml", accept=[DAYS[1]])


@pytest.mark.slow
def test_the_command_says_by_its_exit_status_what_became_of_the_period(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_corank(capsys, "daily", world / "daily.yaml")
    assert code == 0 and "Live: 2026-03-07" in out
    deliver(world, DAYS[1], lose_half)
    code, out, err = run_corank(capsys, "daily", world / "daily.yaml")
    assert code == 3 and "look for files that are missing" in " ".join((out + err).split())
    assert f"`--accept {DAYS[1]}` if they are right, or `--skip {DAYS[1]}`" in " ".join((out + err).split())


@pytest.mark.slow
def test_periods_split_the_log_and_the_first_plans_its_training(tmp_path: Path) -> None:
    settings = write_daily_world(tmp_path / "world", 3, 900, drifts=False)
    # half of it validates: a shorter one holds too few clicks to stop the first period by
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"holdout": "20h"}))
    config = settings.parent / "config.yaml"
    values = json.loads(config.read_text())
    values["data"]["split"] = {"valid": 0.1, "test": 0.1}
    values["train"] |= {"epochs": "auto", "requests": 128}
    config.write_text(json.dumps(values))
    result = corank.daily(settings)
    assert result.refused is None
    runs = [Run.open(folder / "run") for folder in sorted((settings.parent / "daily" / "periods").iterdir())]
    assert all(isinstance(run.config.data.split, RangeSplit) for run in runs)
    first, *later = (run.config.train for run in runs)
    assert first.epochs == 20 and first.early_stop is not None
    assert [train.epochs for train in later] == [1]  # by the `changes` of the settings
