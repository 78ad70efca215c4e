"""The simulated world: the log matches the truth, and production is as good as its preset states."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.errors import ConfigError, DataError
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import PRESETS
from corank.datasets.simulated import Simulated
from corank.metrics.point import auc
from corank.training.config.config_file import read as read_config

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
        simulate_world(tmp_path / preset, preset=preset, **SMALL | {"requests": 20})
    for table in ("users.parquet", "items.parquet"):
        assert len({(tmp_path / preset / table).read_bytes() for preset in PRESETS}) == 1


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
    columns = (exposed[name].to_numpy() for name in ("user_id", "truth", "is_click"))
    assert (auc(*columns).value() or 0) > 0.65
    at = exposed.group_by("position").agg(pl.col("is_click", "truth").sum()).sort("position")
    examined = (at["is_click"] / at["truth"]).to_numpy()
    assert examined[0] == pytest.approx(1.0, abs=0.1)
    assert examined[9] == pytest.approx(0.398, abs=0.1)
    assert np.corrcoef(examined, np.arange(1, 11) ** -0.4)[0, 1] > 0.97


@pytest.mark.parametrize(
    ("preset", "stated"), [("weak", 0.3), ("medium", 0.6), ("strong", 0.85), ("hidden", 0.6)]
)
def test_production_correlates_with_the_true_logit_as_stated(
    tmp_path: Path, preset: str, stated: float
) -> None:
    simulate_world(tmp_path / "out", preset=preset, requests=400)
    log, _ = read(tmp_path / "out")
    for score in ("score_prerank", "score_rank"):
        assert log.select(pl.corr("logit", score)).item() == pytest.approx(stated, abs=0.05)
    errors = log.select(pl.corr("score_prerank", "score_rank")).item()
    assert stated**2 < errors < 0.95  # more than the truth alone explains, yet two models


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
        ({"drift": {"walk": 1.5}}, "simulate: drift.walk: .*received 1.5"),
    ],
)
def test_impossible_worlds_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate_world(tmp_path / "out", **(SMALL | wrong))
    assert not (tmp_path / "out").exists()


def test_clicks_tire_of_a_category_and_the_config_ends_with_a_page(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"requests": 3000, "candidates": 50, "users": 100, "items": 200}
    simulate_world(tmp_path / "fresh", **sizes)
    simulate_world(tmp_path / "tired", **sizes, satiation=0.6)
    config = read_config(tmp_path / "tired" / "config.yaml")
    assert config.page is not None and config.page.by == "category" and config.data.satiation is not None
    assert read_config(tmp_path / "fresh" / "config.yaml").page is None
    logs = {}
    for name in ("fresh", "tired"):
        log = read(tmp_path / name)[0]
        items = pl.read_parquet(tmp_path / name / "items.parquet")
        shown = log.filter(pl.col("position") > 0).join(items.select("item_id", "category"), on="item_id")
        above = pl.int_range(pl.len()).over("request_id", "category", order_by="position")
        logs[name] = shown.with_columns(above.alias("above")).sort("request_id", "position")
    # what is first of its category is clicked as ever, until other clicks change what is retrieved; what is third
    # falls to .16
    fresh, tired = logs["fresh"], logs["tired"]
    first = (pl.col("above") == 0) & (pl.col("time").dt.date() == fresh["time"].dt.date().min())
    assert fresh.filter(first)["is_click"].equals(tired.filter(first)["is_click"])
    rates = [log.filter(above=2)["is_click"].cast(pl.Float64).mean() for log in (fresh, tired)]
    assert rates[1] == pytest.approx(0.16 * rates[0], rel=0.35)  # type: ignore[operator]


def test_users_act_outside_of_the_funnel_by_their_taste_and_by_what_is_known_there(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"requests": 2000, "candidates": 50, "users": 200, "items": 300}
    events = {}
    for name, awareness in (("even", 0.0), ("uneven", 1.5)):
        simulate_world(tmp_path / name, organic=0.3, awareness=awareness, **sizes)
        events[name] = pl.read_parquet(tmp_path / name / "organic/*.parquet")
    simulate_world(tmp_path / "none", **sizes)
    log, truth = read(tmp_path / "even")
    assert log.drop("truth", "logit").equals(pl.read_parquet(tmp_path / "none/log/*.parquet"))
    assert len(events["even"]) == pytest.approx(0.3 * float(truth["click"].sum()), rel=0.1)
    rows = events["even"].join(log.rename({"time": "at"}), on=["user_id", "item_id"])
    after = rows.filter((pl.col("time") - pl.col("at")).is_between(pl.duration(), pl.duration(days=3)))
    assert after.select("user_id", "item_id", "time").n_unique() == len(events["even"].unique())
    acted, shown = (float(frame["truth"].to_numpy().mean()) for frame in (rows, log))
    assert acted > 1.3 * shown
    most = {name: frame["item_id"].value_counts()["count"].max() for name, frame in events.items()}
    assert most["uneven"] > 2 * most["even"]  # type: ignore[operator]
