"""Whole numbers are ids by name, shape or the clicks of each value, and numbers where clicks follow their order."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.settings import validate
from corank.core.types import Floats, Longs
from corank.datasets.lists import Lists, write_lists
from corank.datasets.whole_numbers import is_hash, judge, judge_rates
from corank.training.config.config_file import read

ITEMS = 6000


def clicks_of(values: Longs, effect: Floats, rows: int, rng: np.random.Generator) -> pl.DataFrame:
    """Counts of items with such values, which were shown as often as items are: few often, most seldom."""
    popular = rng.pareto(1.2, ITEMS) + 0.1
    shown = rng.multinomial(rows, popular / popular.sum())
    logit = -2 + effect + rng.normal(0, 0.5, ITEMS)
    return pl.DataFrame(
        {"value": values, "shown": shown, "clicks": rng.binomial(shown, 1 / (1 + np.exp(-logit)))}
    )


def ids(seed: int, rows: int) -> pl.DataFrame:
    """Items of authors who are better or worse, and have about as many items each, or few have most."""
    rng = np.random.default_rng(seed)
    authors = rng.integers(1500, size=ITEMS)
    if seed % 2:
        authors = np.minimum((rng.pareto(1.0, ITEMS) * 20).astype(int), 6000)
    return clicks_of(authors, rng.normal(0, 0.5, authors.max() + 1)[authors], rows, rng)


def amounts(seed: int, rows: int) -> pl.DataFrame:
    """Items with an amount, which clicks follow in some form, or not at all."""
    rng = np.random.default_rng(seed)
    drawn = [rng.lognormal(7, 1, ITEMS), rng.uniform(0, 5000, ITEMS), rng.exponential(2000, ITEMS)]
    amount = drawn[seed % 3].astype(int)
    z = np.log1p(amount) - np.log1p(amount).mean()
    z /= z.std()
    forms = [0.6 * z, -0.4 * z, 0.4 * z**2, -0.4 * z**2, np.sin(2 * z), 0.8 * (z > 0), np.minimum(z, 0)]
    forms += [0 * z] * 3
    return clicks_of(amount, forms[seed], rows, rng)


@pytest.mark.slow
def test_drawn_ids_and_amounts_are_told_apart() -> None:
    assert all(judge_rates(ids(seed, 200_000)).is_id for seed in range(10))
    verdicts = [judge_rates(amounts(seed, rows)) for seed in range(10) for rows in (3000, 30_000, 200_000)]
    assert not any(verdict.is_id for verdict in verdicts)
    followed = [judge_rates(amounts(seed, 200_000)).why.startswith("clicks follow") for seed in range(10)]
    assert followed == [True] * 7 + [False] * 3
    assert judge_rates(ids(0, 200_000).head(9)).why == "too few values were shown to tell"


@pytest.mark.parametrize(
    "name", ["id", "author_id", "authorId", "shopID", "postal_code", "category_id_2", "uid"]
)
def test_names_tell_ids(name: str) -> None:
    assert judge(name, pl.Series([1, 2]), lambda: pl.DataFrame()).is_id


@pytest.mark.parametrize(
    "name", ["paid", "width", "bids", "valid", "video_duration", "idle", "decode", "grid"]
)
def test_other_names_do_not(name: str) -> None:
    assert not judge(name, pl.Series([1, 2]), lambda: amounts(9, 3000)).is_id


def test_hashes_are_ids_and_times_and_counts_are_not() -> None:
    rng = np.random.default_rng(0)
    assert is_hash(pl.Series(rng.integers(0, 2**63 - 1, 2000)))
    assert is_hash(pl.Series(rng.integers(-(2**63), 2**63 - 1, 2000)))
    assert is_hash(pl.Series(rng.integers(0, 2**32, 2000)))
    assert not is_hash(pl.Series(rng.integers(1_700_000_000, 1_800_000_000, 2000)))
    assert not is_hash(pl.Series(np.exp(rng.normal(15, 3, 2000)).astype(np.int64)))
    assert not is_hash(pl.Series(rng.integers(0, 5000, 2000)))
    assert not is_hash(pl.Series([None, 7, 2**40]))


@pytest.mark.slow
def test_columns_of_a_log_and_its_tables_are_judged_and_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lists, size = 4000, 10
    shown = rng.integers(ITEMS, size=(lists, size))
    shop, seconds = rng.integers(1500, size=ITEMS), rng.integers(3000, size=ITEMS)
    seller = rng.integers(300, size=shown.shape)
    place = rng.integers(300, size=lists)
    logit = -1.5 + rng.normal(0, 1, 1500)[shop][shown] + rng.normal(0, 1, 300)[seller]
    logit += (seconds[shown] / 1500 - 1) + rng.normal(0, 1, 300)[place][:, None]
    users = rng.integers(2000, size=lists)
    pl.DataFrame(
        {
            "user": users,
            "time": [datetime(2026, 3, 1) + timedelta(minutes=3 * n) for n in range(lists)],
            "shown": shown.tolist(),
            "clicked": (rng.random(shown.shape) < 1 / (1 + np.exp(-logit))).astype(np.int8).tolist(),
            "seller": seller.tolist(),
            "cents": (shown * 7 % 900).tolist(),
            "place": place,
            "play_time": (shown * 7 % 900).tolist(),
            "depth": rng.integers(300, size=lists),
            "page_id": rng.integers(5, size=lists),
        }
    ).write_parquet(tmp_path / "log.parquet")
    items = {
        "item_id": range(ITEMS),
        "shop": shop,
        "seconds": seconds,
        "author_id": rng.integers(1500, size=ITEMS),
    }
    own = rng.permutation(ITEMS) + 10
    pl.DataFrame(items | {"own_id": own}).write_parquet(tmp_path / "items.parquet")
    named: dict[str, Any] = {"candidates": "shown", "user": "user", "time": "time", "labels": "clicked"}
    columns = validate(Lists, named | {"items": tmp_path / "items.parquet"}, "import lists")
    said: list[str] = []
    write_lists(tmp_path / "log.parquet", tmp_path / "out", columns, said.append)
    features = read(tmp_path / "out" / "config.yaml").features
    kinds = {name: feature.kind for name, feature in features.items() if f"{name}: whole" in " ".join(said)}
    assert kinds == {"seller": "id", "cents": "number", "place": "id", "depth": "bucket", "page_id": "id"} | {
        "shop": "id", "seconds": "number", "author_id": "id", "own_id": "id"
    }  # fmt: skip
    assert "page_id: whole numbers, taken as ids: by its name" in said
    assert any(
        line.startswith("seconds: whole numbers, taken as a number: clicks follow its") for line in said
    )
    assert (features["shop"].min_count, features["own_id"].min_count) == (5, 100)  # type: ignore[attr-defined]
