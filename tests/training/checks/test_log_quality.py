"""Findings on a log: each is made where its columns, requests or scores ask for it, and names what was measured."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.training.checks.findings import Finding
from tests.support.configs import ID, MARCH, NUMBER, of_side, small_config

CONFIG = small_config(
    of_side("user", ID, "user_id")
    | of_side("item", ID, "item_id")
    | of_side("cross", NUMBER, "lost", "review_score")
    | of_side("cross", ID, "fixed", "serial"),
    MARCH | {"level": "level", "levels": ["retrieved", "exposed"]},
    stages=[{"name": "rank", "model": "mlp", "keep": 1, "hidden": [4]}],
)
DAYS, REQUESTS = 3, 120
"""Requests are of each day."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config and a log whose requests show one candidate each."""
    folder = tmp_path_factory.mktemp("poor")
    rows: list[tuple[object, ...]] = []
    for number in range(DAYS * REQUESTS):
        day, n = divmod(number, REQUESTS)
        time = datetime(2026, 3, 1 + day, tzinfo=UTC) + timedelta(minutes=n)
        rows.append((number, n % 40, n % 9, time, "exposed", n % 2, number))
        rows.append((number, n % 40, (n + 1) % 9, time, "retrieved", None, DAYS * REQUESTS + number))
    columns = ["request_id", "user_id", "item_id", "time", "level", "is_click", "serial"]
    log = pl.DataFrame(rows, schema=columns, orient="row")
    log = log.with_columns(lost=pl.lit(None, pl.Float64), fixed=pl.lit(7), score_rank=pl.lit(0.5))
    log = log.with_columns(review_score=pl.col("item_id").cast(pl.Float64))
    log.write_parquet(folder / "log.parquet")
    (folder / "config.yaml").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def findings(folder: Path) -> dict[str, Finding]:
    """By place."""
    return {finding.where: finding for finding in corank.check(folder / "config.yaml").findings}


@pytest.mark.parametrize(
    ("where", "what", "figure"),
    [
        ("lost", "always missing in the split 'train'", ""),
        ("fixed", "the same value in all training rows", ""),
        ("serial", "nearly one value each", "240 values of 240 candidates"),
    ],
)
def test_a_finding_is_made(findings: dict[str, Finding], where: str, what: str, figure: str) -> None:
    assert findings[where].severity == "advice"
    assert findings[where].what.startswith(what) and findings[where].figure == figure
