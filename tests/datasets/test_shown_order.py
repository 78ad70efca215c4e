"""Lists in the order shown: the effect of the position is learnt, and orders that were not shown are refused."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.errors import ConfigError, DataError
from corank.core.settings import validate
from corank.datasets.lists import Lists, write_lists
from corank.training.checks.findings import refuse_errors
from corank.training.checks.summary import check_config
from corank.training.config.config_file import read

COLUMNS = {"candidates": "shown", "user": "user", "time": "time", "labels": "clicked"}
Order = Callable[[pl.DataFrame], pl.DataFrame]


def drawn_log(effect: float, lists: int = 600, size: int = 8, seed: int = 0) -> pl.DataFrame:
    """Impressions over ten days, whose clicks depend on the item and, by `effect`, on the place."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(60)[:size] for _ in range(lists)])
    logit = -1.0 + rng.normal(0, 1, 60)[items] - effect * np.log1p(np.arange(size))
    clicks = rng.random(items.shape) < 1 / (1 + np.exp(-logit))
    first = datetime(2026, 3, 1)
    return pl.DataFrame(
        {
            "user": rng.integers(50, size=lists),
            "time": [first + timedelta(days=10 * n / lists) for n in range(lists)],
            "shown": items.tolist(),
            "clicked": clicks.astype(np.int8).tolist(),
        }
    )


def by(key: Callable[[dict[str, Any]], list[Any]]) -> Order:
    """Sort the elements of each list by a key."""

    def order(log: pl.DataFrame) -> pl.DataFrame:
        rows = log.to_dicts()
        for row in rows:
            ranks = sorted(range(len(row["shown"])), key=key(row).__getitem__)
            row |= {name: [row[name][n] for n in ranks] for name in ("shown", "clicked")}
        return pl.DataFrame(rows, schema=log.schema)

    return order


def imported(log: pl.DataFrame, folder: Path, **more: Any) -> tuple[list[str], Path]:
    """What the import says of the order, and the config."""
    folder.mkdir()
    log.write_parquet(folder / "log.parquet")
    said: list[str] = []
    columns = validate(Lists, COLUMNS | more, "import lists")
    write_lists(folder / "log.parquet", folder / "out", columns, said.append)
    return [line for line in said if "the position shown" in line], folder / "out" / "config.yaml"


@pytest.mark.slow
def test_the_order_shown_is_learnt_as_an_effect_of_the_position(tmp_path: Path) -> None:
    said, config = imported(drawn_log(1.0), tmp_path / "effect")
    assert len(said) == 1 and said[0].startswith(
        "the order of the lists is taken as the position shown: in the first"
    )
    assert "times as often as in the last" in said[0] and "--position feature" in said[0]
    data = read(config).data
    assert data.position == "position" and "position" not in read(config).features
    refuse_errors(check_config(read(config), config.parent).findings)
    assert imported(drawn_log(0.0), tmp_path / "shuffled")[0] == []
    said, config = imported(drawn_log(0.0), tmp_path / "wished", position="effect")
    assert len(said) == 1 and read(config).data.position == "position"


def test_the_wish_decides(tmp_path: Path) -> None:
    said, config = imported(drawn_log(1.0), tmp_path / "feature", position="feature")
    assert "a feature, which requests must hold" in said[0]
    assert read(config).data.position is None and "position" in read(config).features
    refuse_errors(check_config(read(config), config.parent).findings)
    said, config = imported(drawn_log(1.0), tmp_path / "none", position="none")
    assert not said and read(config).data.position is None and "position" not in config.read_text()
    with pytest.raises(ConfigError, match="position: expected auto, effect, feature, none; received 'yes'"):
        imported(drawn_log(1.0), tmp_path / "wrong", position="yes")


ORDERS: dict[str, tuple[Order, str]] = {
    "clicked first": (
        by(lambda row: [-c for c in row["clicked"]]),
        "stand before all others in 100% of them",
    ),
    "clicked last": (by(lambda row: row["clicked"]), "stand behind all others in 100% of them"),
    "by id": (by(lambda row: row["shown"]), "100% of them are sorted by the candidates' ids"),
    "by id, falling": (by(lambda row: [-i for i in row["shown"]]), "are sorted by the candidates' ids"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_orders_that_were_not_shown_are_refused(tmp_path: Path, order: str) -> None:
    change, why = ORDERS[order]
    log = drawn_log(1.0).with_columns(pl.col("shown") + 100)
    if "id" in order:  # of items whose clicks follow the id
        rng = np.random.default_rng(0)
        falling = [[int(rng.random() < 0.6 - i / 160) for i in row] for row in drawn_log(0)["shown"]]
        log = log.with_columns(pl.Series("clicked", falling, dtype=log["clicked"].dtype))
    said, config = imported(change(log), tmp_path / "auto")
    assert len(said) == 1 and "is not taken as the position shown" in said[0] and why in said[0]
    assert read(config).data.position is None
    with pytest.raises(DataError, match="--position effect: the order of the lists is not taken"):
        imported(change(log), tmp_path / "wished", position="effect")


@pytest.mark.parametrize("name", ["slot", "nth"])
def test_a_logged_position_is_an_effect_and_no_feature(tmp_path: Path, name: str) -> None:
    log = drawn_log(1.0).with_columns(
        pl.int_ranges(1, pl.col("shown").list.len() + 1).alias(name),
        price=pl.col("shown").list.eval(pl.element() * 7 % 50),
    )
    if name == "slot":  # by its name in lists of any order
        by_item = pl.col("shown", "clicked", "slot", "price").sort_by("price")
        rows = log.with_row_index("n").explode("shown", "clicked", "slot", "price")
        log = rows.group_by("n", "user", "time", maintain_order=True).agg(by_item).drop("n")
    said, config = imported(log, tmp_path / "effect")
    assert len(said) == 1 and said[0].startswith(
        f"column '{name}' is taken as the position shown: in the first"
    )
    found = read(config)
    assert found.data.position == name and name not in found.features and "price" in found.features
    refuse_errors(check_config(found, config.parent).findings)
    said, config = imported(log, tmp_path / "none", position="none")
    assert read(config).data.position is None and name not in read(config).features
    for way, more in {"wish": {"position": "feature"}, "along": {"along": name}}.items():
        said, config = imported(log, tmp_path / way, **more)
        assert read(config).data.position is None and name in read(config).features


def test_what_no_position_is_stays_a_feature(tmp_path: Path) -> None:
    log = drawn_log(0.0).with_columns(
        slot=pl.col("shown").list.eval(pl.element() * 0 + pl.element().first() % 7),  # of the page
        rank=pl.col("shown").list.eval(pl.element() % 5),
        stars=pl.col("shown").list.eval(pl.when(pl.element() < 20).then(pl.element() % 5)),  # few are rated
    )
    said, config = imported(log, tmp_path / "log")
    assert not said and read(config).data.position is None
    assert {"slot", "rank", "stars"} <= {*read(config).features}


def test_exposures_with_a_position_are_ordered_by_it(tmp_path: Path) -> None:
    rows = drawn_log(1.0).with_row_index("page").with_columns(pl.int_ranges(8).alias("position"))
    exposures = rows.explode("shown", "clicked", "position").sample(fraction=1, shuffle=True, seed=0)
    said, config = imported(exposures, tmp_path / "pages", request="page")
    assert said[0].startswith("column 'position' is taken as the position shown: in the first quarter")
    assert (read(config).data.position, "position" in read(config).features) == ("position", False)
    refuse_errors(check_config(read(config), config.parent).findings)
    alone = exposures.with_row_index("id").drop("page")
    said, config = imported(alone, tmp_path / "alone", request="id")
    assert said[0].startswith("column 'position' is taken as the position shown: by its name")
    assert (read(config).data.position, "position" in read(config).features) == ("position", False)
    refuse_errors(check_config(read(config), config.parent).findings)
    _, config = imported(alone, tmp_path / "feature", request="id", position="feature")
    assert (read(config).data.position, "position" in read(config).features) == (None, True)
