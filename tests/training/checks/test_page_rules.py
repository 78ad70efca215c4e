"""Rules that no page of a log could keep are found before a model is trained."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

import corank
from tests.support.configs import ID, MARCH, of_side, small_config

KINDS = {"brand": "id", "is_new": "number", "tags": "ids"}
FEATURES = of_side("user", ID, "user_id") | of_side("item", ID, "item_id")
FEATURES |= {name: {"side": "item", "kind": kind, "input": False} for name, kind in KINDS.items()}


def hopeless(folder: Path, *rules: dict[str, Any]) -> list[str]:
    """Places of the warnings about pages of 4 slots; each request has 6 candidates of 2 brands, 2 of them new."""
    rows = [
        (n, n % 20, item, datetime(2026, 3, 1 + day, tzinfo=UTC) + timedelta(minutes=n), int(item == n % 6))
        for day in range(3)
        for n in range(day * 60, day * 60 + 60)
        for item in range(6)
    ]
    log = pl.DataFrame(rows, schema=["request_id", "user_id", "item_id", "time", "is_click"], orient="row")
    columns = pl.DataFrame(
        {
            "item_id": range(6),
            "brand": ["a", "b"] * 3,
            "is_new": [0, 0, 0, 0, 1, 1],
            "tags": [[1], [1, 2], [1], [1], [1], []],
        }
    )
    stages = [
        {"name": "prerank", "model": "mlp", "keep": 5, "hidden": [4]},
        {"name": "page", "model": "page", "keep": 4, "rules": [*rules]},
    ]
    data = MARCH | {"items": "items.parquet"}
    losses = [{"kind": "click", "stage": "prerank"}]
    config = small_config(FEATURES, data, stages=stages, losses=losses)
    log.write_parquet(folder / "log.parquet")
    columns.write_parquet(folder / "items.parquet")
    (folder / "config.yaml").write_text(json.dumps(config))
    found = [
        finding for finding in corank.check(folder / "config.yaml").findings if ".rules." in finding.where
    ]
    assert {finding.severity for finding in found} <= {"warning"}
    return [finding.where for finding in found]


def test_a_rule_that_no_request_has_candidates_for_is_a_warning(tmp_path: Path) -> None:
    kept = [
        {"at_most": 2, "of": "brand"},
        {"at_least": 2, "of": "is_new"},
        {"slot": 1, "of": "tags", "never": True},
        {"at_most": 3, "of": "item_id"},
    ]
    broken = [
        {"at_most": 1, "of": "brand"},
        {"at_least": 3, "of": "is_new"},
        {"at_most": 1, "of": "tags"},
        {"slot": 2, "of": "brand", "never": True},
    ]
    assert hopeless(tmp_path, *kept) == []
    assert hopeless(tmp_path, *kept, *broken) == [f"stages.1.rules.{n}" for n in range(4, 8)]
