"""Pairs of attributes whose rate of clicks tells more than both do, as an import of lists finds and writes them."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.datasets.attribute_pairs import MOST_PAIRS, choose_pairs
from corank.datasets.lists import Lists, write_lists
from corank.training.config.config import Config
from corank.training.config.config_file import read

COUNTRIES, CATEGORIES, SIZE = 5, 6, 20


def draw_rows(effect: float, seed: int = 0, requests: int = 500, turns: float = 1.0) -> pl.DataFrame:
    """Candidates whose clicks depend on both attributes, and by `effect` on the pair, other than after `turns`."""
    rng = np.random.default_rng(seed)
    request = np.repeat(np.arange(requests), SIZE)
    country = rng.integers(COUNTRIES, size=requests)[request]
    item = np.concatenate([rng.choice(60, SIZE, replace=False) for _ in range(requests)])
    sign = np.where(request < turns * requests, 1.0, -1.0)
    pair = sign * effect * rng.normal(size=(COUNTRIES, CATEGORIES))[country, item % CATEGORIES]
    logit = -1.5 + 0.5 * rng.normal(size=COUNTRIES)[country] + 0.5 * rng.normal(size=60)[item] + pair
    return pl.DataFrame(
        {
            "request": request,
            "country": [f"country {c}" for c in country],
            "device": [f"device {d}" for d in rng.integers(3, size=requests)[request]],
            "item_id": item,
            "category": [f"category {c}" for c in item % CATEGORIES],
            "brand": [f"brand {b}" for b in item % 11],
            "clicked": (rng.random(len(item)) < 1 / (1 + np.exp(-logit))).astype(np.int64),
        }
    )


def chosen(rows: pl.DataFrame) -> list[tuple[str, str]]:
    pairs = choose_pairs(rows, ["country", "device"], ["category", "brand"], "clicked")
    return [(pair.user, pair.item) for pair in pairs]


@pytest.mark.parametrize("seed", range(2))
def test_a_pair_that_tells_more_than_both_is_chosen(seed: int) -> None:
    assert chosen(draw_rows(0.8, seed))[0] == ("country", "category")


@pytest.mark.parametrize("seed", range(2))
def test_a_weak_pair_of_many_values_is_chosen(seed: int) -> None:
    """Each of its values has some hundred candidates, so that their own rates tell more of chance than of it."""
    rng = np.random.default_rng(seed)
    country, brand, device = (rng.integers(values, size=45_000) for values in (8, 40, 3))
    logit = -2 + 0.3 * rng.normal(size=40)[brand] + 0.3 * rng.normal(size=(8, 40))[country, brand]
    clicked = rng.random(len(logit)) < 1 / (1 + np.exp(-logit))
    rows = pl.DataFrame({"country": country, "device": device, "brand": brand, "clicked": clicked})
    found = choose_pairs(rows, ["country", "device"], ["brand"], "clicked")
    assert [(pair.user, pair.item) for pair in found] == [("country", "brand")]


@pytest.mark.parametrize("seed", range(4))
def test_no_pair_is_chosen_where_both_tell_all(seed: int) -> None:
    assert not chosen(draw_rows(0.0, seed))


@pytest.mark.parametrize("seed", range(2))
def test_no_pair_is_chosen_where_production_shows_users_what_they_click(seed: int) -> None:
    rows = draw_rows(0.0, seed, requests=1500)
    rate = {name: rows.group_by(name).agg(r=pl.col("clicked").mean()) for name in ("country", "category")}
    for name, rates in rate.items():
        rows = rows.join(rates.rename({"r": f"{name} rate"}), name, maintain_order="left")
    high = [pl.col(f"{name} rate") > pl.col(f"{name} rate").mean() for name in rate]
    alike = (high[0] == high[1]) | (pl.int_range(pl.len()) % 4 == 0)
    assert not chosen(rows.filter(alike))


def test_a_pair_of_one_half_of_the_time_is_not_chosen() -> None:
    assert not chosen(draw_rows(0.8, turns=0.5))


def test_a_pair_is_chosen_once_whatever_columns_say_it() -> None:
    rows = draw_rows(1.5)
    copies = rows.with_columns(pl.col("country").alias("nation"), pl.col("category").alias("kind"))
    assert len(choose_pairs(copies, ["country", "nation"], ["category", "kind"], "clicked")) == 1


def test_few_pairs_are_chosen_at_most() -> None:
    rng, users = np.random.default_rng(0), [f"user {n}" for n in range(MOST_PAIRS + 1)]
    of_user, of_item = rng.integers(4, size=(len(users), 40_000)), rng.integers(4, size=40_000)
    logit = sum(rng.normal(0, 1, (4, 4))[code, of_item] for code in of_user)
    clicked = rng.random(40_000) < 1 / (1 + np.exp(-logit))
    rows = pl.DataFrame({**dict(zip(users, of_user, strict=True)), "kind": of_item, "clicked": clicked})
    assert len(choose_pairs(rows, users, ["kind"], "clicked")) == MOST_PAIRS


@pytest.mark.parametrize("clicked", [0, 1])
def test_clicks_of_one_value_choose_nothing(clicked: int) -> None:
    assert not chosen(draw_rows(0.8).with_columns(pl.lit(clicked).alias("clicked")))


def write_log(folder: Path, rows: pl.DataFrame, users: bool, **options: Any) -> tuple[Config, list[str]]:
    """Write rows as lists with a table of items, import them, and return the config and what was said."""
    begin = datetime(2026, 3, 1)
    times = [begin + timedelta(minutes=20 * n) for n in range(rows["request"].n_unique())]
    lists = rows.group_by("request", maintain_order=True).agg(
        pl.col("country", "device").first(), pl.col("item_id").alias("shown"), "clicked"
    )
    lists = lists.with_columns(pl.Series("time", times), pl.col("request").alias("user_id"))
    rows.select("item_id", "category", "brand").unique("item_id").write_parquet(folder / "items.parquet")
    if users:
        lists.select("user_id", "country").write_parquet(folder / "users.parquet")
        options |= {"users": folder / "users.parquet"}
        lists = lists.drop("country")
    lists.drop("request").write_parquet(folder / "log.parquet")
    columns = Lists(
        candidates="shown", user="user_id", time="time", items=folder / "items.parquet",
        **{"labels": "clicked"} | options,
    )  # fmt: skip
    said: list[str] = []
    write_lists(folder / "log.parquet", folder / "data", columns, said.append)
    return read(folder / "data" / "config.yaml"), said


@pytest.mark.parametrize("users", [False, True])
def test_the_rate_of_a_pair_is_written_and_said(tmp_path: Path, users: bool) -> None:
    config, said = write_log(tmp_path, draw_rows(0.8), users)
    assert set(config.declared.needs("country_category_clicks")) == {"country", "category"}
    assert any(
        line.startswith("country_category_clicks: the rate of country × category tells ") for line in said
    )


def test_the_days_of_the_test_choose_no_pair(tmp_path: Path) -> None:
    early, late = draw_rows(0.0), draw_rows(1.5)
    last = early["request"].max() * 0.8  # type: ignore[operator]
    rows = pl.concat([early.filter(pl.col("request") < last), late.filter(pl.col("request") >= last)])
    config, _ = write_log(tmp_path, rows, users=False)
    assert "country_category_clicks" not in config.features
