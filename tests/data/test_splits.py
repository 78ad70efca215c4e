"""How a log is split: by moments, by ranges with gaps, by a column, by users; with and without a test split."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.core.errors import ConfigError, CorankError, DataError
from corank.data.packed.dataset import PackedDataset
from corank.testing.worlds import make_world
from corank.training.config.config_file import read

DAYS = [datetime(2026, 3, day, tzinfo=UTC) for day in range(1, 11)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The config of a world of ten days, 1 to 10 March 2026."""
    yield make_world(tmp_path_factory.mktemp("splits") / "world", requests=400, candidates=10)


def packed(world: Path, tmp_path: Path, split: str, **options: Any) -> PackedDataset:
    overrides = [f"data.split={split}", f"packed={tmp_path / 'packed'}"]
    return corank.pack(world, overrides, **options).packed


def requests_of(data: PackedDataset, split: str) -> set[str]:
    """The keys of a split's requests."""
    return {str(key) for shard in data.splits[split] for key in shard.keys["request_id"].to_list()}


def log_of(world: Path) -> pl.DataFrame:
    return pl.read_parquet(world.parent / "log/*.parquet")


def requests_between(world: Path, first: datetime, end: datetime) -> set[str]:
    time = pl.col("time").dt.replace_time_zone("UTC")
    rows = log_of(world).filter(time.is_between(first, end, closed="left"))
    return set(map(str, rows["request_id"].to_list()))


def test_ranges_leave_gaps_that_are_in_no_split(world: Path, tmp_path: Path) -> None:
    data = packed(
        world, tmp_path, "{train: ..2026-03-05, valid: 2026-03-06..2026-03-07, test: 2026-03-08..2026-03-10}"
    )
    assert list(data.splits) == ["train", "valid", "test"]
    assert requests_of(data, "train") == requests_between(world, DAYS[0], DAYS[4])
    assert requests_of(data, "valid") == requests_between(world, DAYS[5], DAYS[6])
    assert requests_of(data, "test") == requests_between(world, DAYS[7], DAYS[9])


def test_a_column_says_the_split(world: Path, tmp_path: Path) -> None:
    fold = pl.col("request_id").hash() % 5
    folder = with_column(world, tmp_path, pl.when(fold != 2).then(fold))  # null is in no split
    split = "{column: fold, train: [0, 1], valid: 3, test: [4]}"
    data = packed(folder, tmp_path, split)
    rows = log_of(folder)
    for name, values in (("train", [0, 1]), ("valid", [3]), ("test", [4])):
        assert requests_of(data, name) == set(
            map(str, rows.filter(pl.col("fold").is_in(values))["request_id"])
        )


def with_column(world: Path, tmp_path: Path, fold: pl.Expr) -> Path:
    """A copy of the world whose log has a column `fold`."""
    folder = tmp_path / "folded"
    (folder / "log").mkdir(parents=True)
    log_of(world).with_columns(fold=fold).write_parquet(folder / "log" / "log.parquet")
    for name in ("items.parquet", "users.parquet", "config.yaml", "truth"):
        (folder / name).symlink_to(world.parent / name)
    return folder / "config.yaml"


def test_an_unknown_value_of_the_column_is_named(world: Path, tmp_path: Path) -> None:
    config = with_column(world, tmp_path, pl.lit("trian"))
    with pytest.raises(DataError, match=r"data.split: column .* 'trian'; expected train, valid, test, or"):
        packed(config, tmp_path, "{column: fold}")
    config = with_column(world, tmp_path / "alternating", pl.int_range(pl.len()) % 2)
    with pytest.raises(DataError, match=r"column 'fold' changes from .* within the request"):
        packed(config, tmp_path, "{column: fold, train: 0, valid: 1, test: null}")


def test_users_are_drawn_by_the_seed_alone(world: Path, tmp_path: Path) -> None:
    first = packed(world, tmp_path / "a", "{by: user, valid: 0.2, test: 0.3, seed: 1}")
    users = {s: set(log_users(world, requests_of(first, s))) for s in first.splits}
    assert not (
        users["train"] & users["valid"] or users["train"] & users["test"] or users["valid"] & users["test"]
    )
    assert sum(map(len, users.values())) == log_of(world)["user_id"].n_unique()
    other = packed(world, tmp_path / "c", "{by: user, valid: 0.2, test: 0.3, seed: 2}")
    assert requests_of(other, "test") != requests_of(first, "test")


def log_users(world: Path, requests: set[str]) -> list[int]:
    rows = log_of(world)
    return rows.filter(pl.col("request_id").cast(pl.String).is_in(list(requests)))["user_id"].to_list()


def test_without_a_test_split_training_validates(world: Path, tmp_path: Path) -> None:
    done = train(world, tmp_path, "data.split={valid: 2026-03-09}")
    assert done.metrics["rank.click.auc"] is not None
    with pytest.raises(DataError, match=r"no split 'test': data.split gives train, valid"):
        corank.evaluate(done.run.folder)
    assert corank.evaluate(done.run.folder, "valid", bootstrap=False)["run"]["split"] == "valid"


def test_all_of_the_log_may_train(world: Path, tmp_path: Path) -> None:
    done = train(world, tmp_path, "data.split={train: ..}")
    assert (done.epoch, done.metrics) == (1, {})
    run = done.run
    assert requests_of(run.packed(), "train") == set(map(str, log_of(world)["request_id"].to_list()))
    _, calibrators = run.model(run.packed())
    assert {platt.slope for stage in calibrators.values() for platt in stage.values()} == {1.0}
    assert corank.export(run.folder, tmp_path / "bundle").bundle.manifest.model_version
    check = corank.check(world, ["data.split={train: ..}"])
    assert any("there is no split 'valid'" in finding.what for finding in check.findings)


def train(world: Path, tmp_path: Path, *overrides: str) -> corank.TrainResult:
    overrides = (*overrides, f"packed={tmp_path / 'packed'}", "train.epochs=1", "train.early_stop=null")
    return corank.train(world, overrides, folder=tmp_path / "run")


@pytest.mark.parametrize(
    ("split", "message"),
    {
        "{}": "data.split.valid: required, but not given",
        "{train: ..2026-03-05, valid: 2026-03-04..}": "train .* must end before valid .* begins",
        "{train: ..2026-03-05, valid: 2026-03-08..2026-03-08}": "split.valid: .* is empty",
        "{column: fold, train: [a], valid: [a]}": "'a' is named by two splits",
    }.items(),
)
def test_contradictions_are_refused(world: Path, split: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(world, [f"data.split={split}"])


def test_early_stopping_needs_a_validation_split(world: Path) -> None:
    with pytest.raises(CorankError, match=r"train.early_stop: there is no split 'valid'"):
        read(world, ["data.split={train: ..}", "train.early_stop={metric: rank.click.auc}"])
