"""Texts that `data.nulls` reads as missing: in tables, in requests, and what is said where it lacks them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from tests.support.configs import ID, MARCH, NUMBER, of_side, small_config

NULLS = ["NULL", "-"]


def write_shop(folder: Path, ending: str, **settings: Any) -> Path:
    """A log, and items with prices, some of which are texts."""
    rows = [
        (
            n // 4,
            n // 4 % 20,
            n % 12,
            datetime(2026, 3, 1 + n // 200, tzinfo=UTC) + timedelta(minutes=n // 4),
            int(n % 3 == 0),
        )
        for n in range(600)
    ]
    log = pl.DataFrame(rows, ["request_id", "user_id", "item_id", "time", "is_click"], orient="row")
    log = log.with_columns(
        device=pl.col("request_id").replace_strict({n: ["ios", "NULL"][n % 2] for n in range(150)})
    )
    log.write_parquet(folder / "log.parquet")
    price = ["NULL" if n % 5 == 0 else f"{n}.5" for n in range(12)]
    items = pl.DataFrame({"item_id": range(12), "price": price})
    items.write_csv(folder / "items.csv") if ending == "csv" else items.write_parquet(
        folder / "items.parquet"
    )
    kind = settings.pop("kind", NUMBER)
    config = small_config(
        of_side("item", ID, "item_id") | of_side("item", kind, "price") | of_side("context", ID, "device"),
        MARCH | {"items": f"items.{ending}"} | settings,
    )
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder / "config.yaml"


def test_numbers_but_for_a_text_are_refused_as_text_and_read_with_nulls(tmp_path: Path) -> None:
    config = write_shop(tmp_path, "csv")
    with pytest.raises(DataError, match=r"'price'.*'NULL' \(3 rows\).*data\.nulls: \[\"NULL\"\]"):
        corank.check(config)
    checked = corank.check(config, overrides=['data.nulls=["NULL"]'])
    (price,) = (one for one in checked.document()["profile"]["features"] if one["feature"] == "price")
    assert price["missing"]["train"] > 0


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_check_warns_of_an_id_whose_values_are_numbers_but_for_a_few(ending: str, tmp_path: Path) -> None:
    config = write_shop(tmp_path, ending, kind=ID)
    said = [f for f in corank.check(config).findings if f.where == "features.price"]
    assert [f.severity for f in said] == ["warning"] and "data.nulls" in said[0].what
    assert not [
        f for f in corank.check(config, overrides=['data.nulls=["NULL"]']).findings if "NULL" in f.what
    ]


def test_a_request_says_it_as_the_log_does(tmp_path: Path) -> None:
    config = write_shop(tmp_path, "csv", nulls=NULLS)
    corank.train(config, folder=tmp_path / "run")
    corank.export(tmp_path / "run", tmp_path / "bundle")
    funnel = corank.Funnel.open(tmp_path / "bundle")
    asked = {"user": {"id": 3}, "time": "2026-03-03T00:00:00Z", "candidates": [1, 2, 3]}
    answers = [
        funnel.rank(asked | {"context": {"device": device}})["items"] for device in ("NULL", None, "ios")
    ]
    assert answers[0] == answers[1] != answers[2]
