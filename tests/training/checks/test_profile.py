"""Profile of a log in `corank check` and `train`: known ids, missing and useless columns, requests, and advice."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from tests.support.configs import ID, MARCH, NUMBER, of_side, small_config

CONFIG = small_config(
    of_side("user", ID, "user_id", "city")
    | of_side("context", ID, "session")
    | of_side("item", ID, "item_id", "author", "language")
    | of_side("item", NUMBER, "price"),
    MARCH | {"items": "items.parquet", "users": "users.parquet"},
)
DAYS = 3
REQUESTS = 40
"""Of each day."""
SIZE = 5


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A log whose items live one day: those of the test day are new, as are most of its users."""
    rows = []
    for day in range(DAYS):
        for n in range(REQUESTS):
            number = day * REQUESTS + n
            time = datetime(2026, 3, 1 + day, tzinfo=UTC) + timedelta(minutes=n)
            for k in range(SIZE):
                item = 100 * day + (n + k) % 20
                rows.append((number, n if day < 2 else 30 + n, item, time, int(k == n % SIZE)))
    log = pl.DataFrame(rows, schema=["request_id", "user_id", "item_id", "time", "is_click"], orient="row")
    log = log.with_columns(session=pl.col("request_id"))
    log.write_parquet(tmp_path / "log.parquet")
    items = pl.Series("item_id", [100 * day + n for day in range(DAYS) for n in range(20)])
    newest = pl.col("item_id") >= 200
    items.to_frame().with_columns(
        author=pl.col("item_id") % 7,
        language=pl.lit("en"),
        price=pl.when(newest).then(None).otherwise(pl.col("item_id") * 1.0),
    ).write_parquet(tmp_path / "items.parquet")
    users = pl.DataFrame({"user_id": range(80), "city": [n % 3 if n < 70 else None for n in range(80)]})
    users.write_parquet(tmp_path / "users.parquet")
    (tmp_path / "config.yaml").write_text(json.dumps(CONFIG))
    return tmp_path / "config.yaml"


def facts(document: dict[str, Any], name: str) -> dict[str, Any]:
    (feature,) = (one for one in document["profile"]["features"] if one["feature"] == name)
    return dict(feature)


def test_known_shares_are_those_of_a_slow_count(config: Path) -> None:
    document = corank.check(config).document()
    log = pl.read_parquet(config.parent / "log.parquet")
    day = log["time"].dt.day()
    train, test = log.filter(day == 1), log.filter(day == 3)
    for name, column in (("item", "item_id"), ("user", "user_id"), ("session", "session")):
        known = test[column].is_in(train[column].unique().implode())
        clicks = test["is_click"] == 1
        shares = facts(document, name)["known"]["test"]
        assert shares["candidates"] == pytest.approx(known.mean())
        assert shares["positives"] == pytest.approx(known.filter(clicks).mean())
    assert facts(document, "item")["known"]["test"]["candidates"] == 0
    assert facts(document, "user")["known"]["test"]["candidates"] == 0.25
    assert facts(document, "author")["known"]["test"]["candidates"] == 1


def test_advice_names_what_decides(config: Path) -> None:
    said = corank.check(config).findings
    advice = "\n".join(str(finding) for finding in said)
    for expected in (
        "item_id: 100% of the candidates of 'valid' and 100% of 'test' are items that training never saw; --without",
        "user_id: 75% of the candidates of 'test' are of users that training never saw",
        "language: the same value in all training rows",
        "price (0% of 'train', but 100% of 'test')",
        ": missing in another share of the candidates than in 'train'",
        "session (100% of the candidates of 'valid' and 100% of 'test'): many candidates have a value",
    ):
        assert expected in advice
    assert "author" not in advice and "city" not in advice


def test_what_advice_names_works_when_typed(config: Path) -> None:
    typed = 0
    for finding in corank.check(config).findings:
        places = [*finding.places] or [finding.where]
        options: dict[str, Any] = {}
        if "; --without drops it" in finding.what:
            options = {"without": places}
        elif (named := finding.what.partition("--without ")[2].partition(" ")[0]) != "":
            options = {"without": [named]}
        elif (key := finding.what.partition(": write ")[2]) and finding.severity == "advice":
            name, _, value = key.partition(": ")
            options = {"overrides": [f"{name}={value}"]}
        if options:
            typed += 1
            left = {f.where for f in corank.check(config, **options).findings if f.what == finding.what}
            assert finding.where not in left
    assert typed >= 3
