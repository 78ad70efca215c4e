"""The simulated news world: what is logged is what happened, and its truth is the truth."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.errors import ConfigError, DataError
from corank.datasets.news.readers import SHRINK
from corank.datasets.news.simulate import TEST, VALID, simulate_news
from corank.training.checks.summary import check_config
from corank.training.config.config_file import read

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"requests": 1500, "users": 2000, "items": 2000, "candidates": 40}


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("news")
    simulate_news(out, **SMALL)
    return out


def exploded(news: Path) -> pl.DataFrame:
    """A row a candidate, with its truth and the time at which its article was published."""
    log = (
        pl.read_parquet(news / "log/*.parquet")
        .explode("candidates", "clicked")
        .rename({"candidates": "item_id"})
    )
    truth = pl.read_parquet(news / "truth/*.parquet")
    assert log.select("request_id", "item_id").equals(truth.select("request_id", "item_id"))
    items = pl.read_parquet(news / "items.parquet").select("item_id", "published")
    return log.with_columns(p=truth["click"]).join(items, "item_id", maintain_order="left")


def test_same_arguments_write_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate_news(tmp_path / name, seed=seed, requests=100, users=50, items=300)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_lists_hold_distinct_articles_that_are_alive(news: Path) -> None:
    log = pl.read_parquet(news / "log/*.parquet")
    lengths = log["candidates"].list.len()
    assert lengths.min() == 5 and lengths.max() == 40 and lengths.n_unique() > 20
    assert log["candidates"].list.n_unique().eq(lengths).all() and log["clicked"].list.len().eq(lengths).all()
    age = (
        exploded(news)
        .select(pl.col("time") - pl.col("published"))
        .to_series()
        .dt.total_hours(fractional=True)
    )
    assert age.min() >= 0 and age.max() < 48  # type: ignore[operator]


def test_histories_are_older_than_the_log_and_in_order(news: Path) -> None:
    log = pl.read_parquet(news / "log/*.parquet")
    first = log["time"].dt.epoch("us").to_numpy().min()
    users = pl.read_parquet(news / "users.parquet")
    for times in users["history_time"].list.eval(pl.element().dt.epoch("us")).head(300).to_list():
        assert times == sorted(times) and (not times or times[-1] < first)
    lengths = users["history"].list.len()
    assert (
        lengths.eq(users["history_time"].list.len()).all() and 0.05 < (lengths == 0).to_numpy().mean() < 0.2
    )
    vectors = pl.read_parquet(news / "items.parquet")["vector"].to_numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for clicked, mean in zip(users["history"].head(50), users["interest"].head(50), strict=True):
        assert (mean is None) == (len(clicked) == 0)
        shrunk = unit[clicked.to_list()].sum(0) / (len(clicked) + SHRINK)
        assert mean is None or np.allclose(shrunk, mean.to_list(), atol=1e-5)


def test_clicks_follow_the_truth(news: Path) -> None:
    rows = exploded(news)
    clicks, p = rows["clicked"].to_numpy(), rows["p"].to_numpy().astype(float)
    spread = np.sqrt((p * (1 - p)).sum())
    assert abs(clicks.sum() - p.sum()) < 4 * spread
    for band in np.array_split(np.argsort(p), 5):
        assert abs(clicks[band].sum() - p[band].sum()) < 4 * np.sqrt((p * (1 - p))[band].sum())
    assert 0.05 < p.mean() < 0.07


def test_most_articles_of_the_test_are_new_and_few_readers_return(news: Path) -> None:
    rows = exploded(news)
    day = pl.col("time").dt.date()
    train, test = rows.filter(day < VALID), rows.filter(day >= TEST)
    assert np.isin(test["item_id"].to_numpy(), train["item_id"].to_numpy()).mean() < 0.2
    assert np.isin(test["user_id"].to_numpy(), train["user_id"].to_numpy()).mean() < 0.5


def test_the_config_is_accepted_as_it_is(news: Path) -> None:
    check_config(read(news / "config.yaml"), news).data_check.require()


def test_faulty_arguments_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="simulate: items: "):
        simulate_news(tmp_path / "a", items=10)
    (tmp_path / "b").write_text("")
    with pytest.raises(DataError, match="is a file"):
        simulate_news(tmp_path / "b")
