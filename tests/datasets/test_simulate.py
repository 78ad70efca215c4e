"""The simulated world: the log matches the truth, and production is as good as its preset states."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from pydantic import TypeAdapter
from sklearn.metrics import roc_auc_score

from corank.core.errors import ConfigError, DataError
from corank.datasets.feed.production import first_distinct
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import PRESETS
from corank.datasets.simulated import Simulated
from corank.features.feature_kind import Feature
from corank.features.kinds.number import NumberFeature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"requests": 300, "candidates": 20, "users": 20, "items": 80}


def read(world: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Log and truth, the log with the true logit of each candidate."""
    log, truth = pl.read_parquet(world / "log/*.parquet"), pl.read_parquet(world / "truth/*.parquet")
    assert log.select("request_id", "item_id").equals(truth.select("request_id", "item_id"))
    p = pl.col("truth").cast(pl.Float64)
    return log.with_columns(truth=truth["click"]).with_columns(logit=(p / (1 - p)).log()), truth


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Simulated]:
    out = tmp_path_factory.mktemp("medium")
    return out, simulate_world(out, requests=2000)


@pytest.fixture(scope="module")
def log(medium: tuple[Path, Simulated]) -> pl.DataFrame:
    return read(medium[0])[0]


def test_equal_settings_write_equal_bytes_and_presets_share_users_and_items(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate_world(tmp_path / name, seed=seed, **SMALL)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) >= 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()
    for preset in PRESETS:
        simulate_world(tmp_path / preset, preset=preset, **SMALL)
    for table in ("users.parquet", "items.parquet"):
        assert len({(tmp_path / preset / table).read_bytes() for preset in PRESETS}) == 1


def test_tables_have_their_columns_and_types_and_the_summary_counts(medium: tuple[Path, Simulated]) -> None:
    out, simulated = medium
    time = pl.Datetime("us", "UTC")
    whole = dict.fromkeys(("request_id", "user_id", "item_id"), pl.Int64)
    texts = dict.fromkeys(("tab", "device", "channel", "level", "policy"), pl.String)
    codes = {"hour": pl.Int8, "category_clicks": pl.Int32, "is_click": pl.Int8, "position": pl.Int16}
    scores = dict.fromkeys(("score_prerank", "score_rank"), pl.Float32)
    types = dict(pl.read_parquet_schema(out / "log/part-00000.parquet"))
    assert types == whole | {"time": time} | texts | codes | scores
    truth = dict(pl.read_parquet_schema(out / "truth/part-00000.parquet"))
    assert truth == {"request_id": pl.Int64, "item_id": pl.Int64, "click": pl.Float32}
    users, items = pl.read_parquet(out / "users.parquet"), pl.read_parquet(out / "items.parquet")
    assert users.columns == ["user_id", "age", "gender", "city", "activity"]
    assert items.schema["tags"] == pl.List(pl.String) and items.schema["published"] == time
    assert 0 < users["age"].null_count() < 400 and 0 < items["quality"].null_count() < 1000
    assert set(items["tags"].list.len()) == {0, 1, 2, 3}
    assert items["tags"].list.n_unique().eq(items["tags"].list.len()).all()
    log = pl.read_parquet(out / "log/*.parquet")
    assert simulated == (log.height, log["is_click"].count(), log["is_click"].sum())
    assert simulated[:2] == (2000 * 200, 2000 * 10) and 0.12 < simulated.clicks / simulated.exposed < 0.18


def test_every_request_has_distinct_candidates_cut_to_the_same_counts(log: pl.DataFrame) -> None:
    keys, levels = (
        ("user_id", "time", "tab", "hour", "device", "policy"),
        ("retrieved", "preranked", "ranked", "exposed"),
    )
    requests = log.group_by("request_id").agg(
        pl.col("item_id", *keys).n_unique(),
        *((pl.col("level") == level).sum().alias(level) for level in levels),
        positions=pl.col("position").drop_nulls().sort(),
    )
    assert requests.height == 2000
    assert set(requests.select("item_id", *keys).rows()) == {(200, *(1,) * 6)}
    assert set(requests.select(levels).rows()) == {(150, 30, 10, 10)}
    assert set(map(tuple, requests["positions"])) == {tuple(range(1, 11))}
    exposed = log["level"] == "exposed"
    assert log["is_click"].is_not_null().equals(exposed) and log["position"].is_not_null().equals(exposed)
    assert set(log["is_click"].drop_nulls()) == {0, 1}


def test_production_cuts_by_its_scores(log: pl.DataFrame) -> None:
    depth = {"retrieved": 0, "preranked": 1, "ranked": 2, "exposed": 3}
    served = log.filter(policy="production").with_columns(depth=pl.col("level").replace_strict(depth))
    cut = served.group_by("request_id").agg(
        best_cut=pl.col("score_prerank").filter(pl.col("depth") == 0).max(),
        worst_kept=pl.col("score_prerank").filter(pl.col("depth") > 0).min(),
        best_preranked=pl.col("score_rank").filter(pl.col("depth") == 1).max(),
        worst_ranked=pl.col("score_rank").filter(pl.col("depth") > 1).min(),
        falls=pl.col("score_rank")
        .sort_by("position")
        .filter(pl.col("depth").sort_by("position") == 3)
        .diff()
        .max(),
    )
    assert (cut["best_cut"] <= cut["worst_kept"]).all()
    assert (cut["best_preranked"] <= cut["worst_ranked"]).all()
    assert cut["falls"].to_numpy().max() <= 0


def test_a_small_share_of_requests_is_exposed_at_random(log: pl.DataFrame) -> None:
    exposed, random = pl.col("level") == "exposed", pl.col("policy") == "random"
    share = log.select(random.mean()).item()
    assert 0.01 < share < 0.03

    def gain(policy: pl.Expr) -> float:
        mean = (
            pl.col("score_rank").filter(policy & exposed).mean() - pl.col("score_rank").filter(policy).mean()
        )
        return float(log.select(mean).item())

    assert abs(gain(random)) < 0.2  # 400 exposed rows of unit variance: a deviation of .05
    assert gain(~random) > 1.2


def test_clicks_follow_the_truth_and_fall_with_position(log: pl.DataFrame) -> None:
    """Clicks over their true probability are the examination: position^-0.4."""
    exposed = log.filter(level="exposed")
    assert roc_auc_score(exposed["is_click"], exposed["truth"]) > 0.65
    at = exposed.group_by("position").agg(pl.col("is_click", "truth").sum()).sort("position")
    examined = (at["is_click"] / at["truth"]).to_numpy()
    assert examined[0] == pytest.approx(1.0, abs=0.1)
    assert examined[9] == pytest.approx(0.398, abs=0.1)
    assert np.corrcoef(examined, np.arange(1, 11) ** -0.4)[0, 1] > 0.97


@pytest.mark.parametrize(
    ("preset", "stated"), [("weak", 0.3), ("medium", 0.6), ("strong", 0.85), ("hidden", 0.6)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_production_correlates_with_the_true_logit_as_stated(
    tmp_path: Path, preset: str, stated: float, seed: int
) -> None:
    simulate_world(tmp_path / "out", preset=preset, seed=seed, requests=400)
    log, _ = read(tmp_path / "out")
    for score in ("score_prerank", "score_rank"):
        assert log.select(pl.corr("logit", score)).item() == pytest.approx(stated, abs=0.05)
    errors = log.select(pl.corr("score_prerank", "score_rank")).item()
    assert stated**2 < errors < 0.95  # more than the truth alone explains, yet two models


def deviations(world: Path) -> pl.DataFrame:
    """Each row's logit and score less the mean of the rows with the same user, item and context."""
    log, _ = read(world)
    same = ["user_id", "item_id", "tab", "device", pl.col("hour") // 6]
    return log.select(pl.col("logit", "score_rank") - pl.col("logit", "score_rank").mean().over(same))


def test_truth_and_errors_are_fixed_unless_a_signal_is_hidden(tmp_path: Path) -> None:
    """In a tiny world the same pair comes back often; only a hidden intent tells its occurrences apart."""
    tiny: dict[str, Any] = {"requests": 3000, "candidates": 20, "users": 3, "items": 60}
    simulate_world(tmp_path / "medium", preset="medium", **tiny)
    plain = deviations(tmp_path / "medium")
    assert plain["logit"].abs().max() < 1e-3 and plain["score_rank"].abs().max() < 1e-3  # type: ignore[operator]

    simulate_world(tmp_path / "hidden", preset="hidden", **tiny)
    hidden = deviations(tmp_path / "hidden")
    assert 0.6 < hidden["logit"].std() < 0.9  # type: ignore[operator]
    assert hidden.select(pl.corr("logit", "score_rank")).item() > 0.99


def test_category_clicks_count_the_users_clicks_before_the_day(tmp_path: Path) -> None:
    simulate_world(tmp_path / "out", **SMALL)
    log, _ = read(tmp_path / "out")
    category = dict(pl.read_parquet(tmp_path / "out/items.parquet").select("item_id", "category").iter_rows())
    rows = log.select(
        "user_id", "item_id", pl.col("time").dt.date().alias("day"), "is_click", "category_clicks"
    )
    clicks = [(user, category[item], day) for user, item, day, click, _ in rows.iter_rows() if click]
    days = sorted(set(rows["day"]))
    before = {day: Counter((u, c) for u, c, clicked in clicks if clicked < day) for day in days}
    naive = [before[day][user, category[item]] for user, item, day, _, _ in rows.iter_rows()]
    assert max(naive) >= 3
    assert rows["category_clicks"].to_list() == naive


def test_time_runs_through_ten_days_and_nothing_comes_before_it_exists(
    medium: tuple[Path, Simulated], log: pl.DataFrame
) -> None:
    days = log["time"].dt.date().unique().sort()
    assert days.len() == 10 and str(days[0]) == "2026-03-01" and str(days[-1]) == "2026-03-10"
    assert log["time"].is_sorted() and log["request_id"].is_sorted()
    assert log["hour"].cast(pl.Int32).equals(log["time"].dt.hour().cast(pl.Int32))
    published = log.join(pl.read_parquet(medium[0] / "items.parquet"), on="item_id")
    assert (published["published"] < published["time"]).all()
    train, last = (published.filter(pl.col("time").dt.day().is_between(*span)) for span in ((1, 8), (9, 10)))
    for column in ("user_id", "item_id"):
        assert set(last[column]) - set(train[column]), f"no new {column} in the last days"


def test_channels_retrieve_as_they_are_called(log: pl.DataFrame, medium: tuple[Path, Simulated]) -> None:
    share = dict(log["channel"].value_counts(normalize=True).iter_rows())
    assert set(share) == {"popular", "taste", "category", "fresh", "random"}
    assert min(share.values()) > 0.05
    items = pl.read_parquet(medium[0] / "items.parquet").select("item_id", "published")
    age = (pl.col("time") - pl.col("published")).dt.total_hours()
    by_channel = log.join(items, on="item_id").group_by("channel").agg(
        age=age.mean(), logit=pl.col("logit").mean(), items=pl.col("item_id").n_unique()
    )  # fmt: skip
    channels = {row["channel"]: row for row in by_channel.iter_rows(named=True)}
    assert channels["fresh"]["age"] <= 48 < channels["random"]["age"]
    assert channels["taste"]["logit"] > channels["random"]["logit"] + 0.3
    assert channels["random"]["items"] > 0.95 * items.height


def test_first_distinct_takes_the_earliest_slot_of_each_value() -> None:
    proposals = np.array([[7, 7, 3, 7, 5, 3, 9], [1, 2, 3, 4, 5, 6, 7]])
    assert first_distinct(proposals, 4).tolist() == [[0, 2, 4, 6], [0, 1, 2, 3]]


def test_config_names_what_the_tables_have(medium: tuple[Path, Simulated]) -> None:
    out, _ = medium
    config = yaml.safe_load((out / "config.yaml").read_text())
    data = DataSettings.model_validate(config["data"])
    assert data.split.describe() == "valid from 2026-03-09, test from 2026-03-10"
    schema = Schema(TypeAdapter(dict[str, Feature]).validate_python(config["features"]))
    log, users, items = (
        pl.read_parquet_schema(out / name)
        for name in ("log/part-00000.parquet", "users.parquet", "items.parquet")
    )
    tables = {"user": users, "context": log, "item": items, "cross": log}
    for name, feature in schema.features.items():
        if name != "history":
            dtype = tables[schema.side(name)][schema.column(name)]
            assert not isinstance(feature, NumberFeature) or dtype.is_numeric()
    assert set(schema.row_features("cross").numbers) == {"category_clicks"}
    assert [stage["keep"] for stage in config["stages"]] == [50, 10]


@pytest.mark.parametrize(("candidates", "keeps"), [(10, [6, 2]), (50, [30, 10]), (1000, [250, 10])])
def test_quotas_follow_the_number_of_candidates(tmp_path: Path, candidates: int, keeps: list[int]) -> None:
    simulate_world(tmp_path / "out", requests=20, candidates=candidates, users=5, items=2500)
    config = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert [stage["keep"] for stage in config["stages"]] == keeps
    log, _ = read(tmp_path / "out")
    counts = dict(log["level"].value_counts().iter_rows())
    assert counts["exposed"] == counts["ranked"] == 20 * keeps[1]
    assert counts["retrieved"] == 20 * (candidates - keeps[0])


def test_a_folder_with_something_in_it_is_refused_unless_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    simulate_world(out, **SMALL)
    (out / "log" / "part-99999.parquet").write_bytes(b"stale")
    with pytest.raises(DataError, match=f"{out}: the folder is not empty"):
        simulate_world(out, **SMALL)
    simulate_world(out, seed=5, overwrite=True, **SMALL)
    assert read(out)[0].height == 300 * 20
    assert "seed 5" in (out / "config.yaml").read_text()
    with pytest.raises(DataError, match="is a file"):
        simulate_world(out / "config.yaml", **SMALL)


def test_config_is_written_last_and_removed_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    simulate_world(out, **SMALL)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert max(written.values()) == written[out / "config.yaml"]
    (out / "users.parquet").unlink()
    (out / "users.parquet").mkdir()  # cannot be replaced, so the second world stays unfinished
    with pytest.raises(OSError, match=r"users\.parquet"):
        simulate_world(out, overwrite=True, **SMALL)
    assert not (out / "config.yaml").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "perfect"}, "simulate: preset: .*'weak', 'medium', 'strong' or 'hidden'"),
        ({"candidates": 9}, "simulate: candidates: .*10; received 9"),
        ({"items": 39}, "at least 40 items; received 39"),
        ({"requests": 0}, "simulate: requests: .*received 0"),
        ({"days": 2}, "simulate: days: .*3; received 2"),
        ({"drift": {"walk": 1.5}}, "simulate: drift.walk: .*received 1.5"),
        ({"drift": {"lifetime": 1}}, "simulate: drift.lifetime: .*received 1"),
        ({"drift": {"speed": 1}}, "simulate: drift.*speed"),
    ],
)
def test_impossible_worlds_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate_world(tmp_path / "out", **(SMALL | wrong))
    assert not (tmp_path / "out").exists()
