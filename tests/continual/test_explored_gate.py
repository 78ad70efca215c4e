"""The cycle of exploration: a service draws some pages, its log judges the next model, and a worse one is refused.

Clicks depend on whether an item is good. The second model orders by the probability that nobody clicks: on what was
shown its predictions are as right as before, so that figures of clicks pass, but its pages are the worst.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request as Call
from urllib.request import urlopen

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.time import to_ms
from corank.features.log_schema import LEVELS
from corank_serve.log.log_format import EXPLORED, SERVED
from tests.support.service import running_service
from tests.support.waiting import eventually

ITEMS, USERS, CANDIDATES, SHOWN = 40, 60, 12, 3
DAYS = [datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 4, 2, tzinfo=UTC)]
GOOD = np.arange(ITEMS) % 3 == 0
FIGURE, CLICKS = f"cascade.ips_click_rate@{SHOWN}", "rank.exposed.click.auc"
GATE = [f"{FIGURE} >= live - 0.2", f"{CLICKS} >= live - 0.05"]


def times_of(day: datetime, early: int, late: int) -> list[datetime]:
    """So many before noon, and so many after; on the last six hours models are compared."""
    hours = np.append(np.linspace(1, 11.9, early), np.linspace(12, 23.9, late))
    return [day + timedelta(hours=float(hour)) for hour in hours]


def drawn_candidates(rng: np.random.Generator) -> list[int]:
    return [int(item) for item in rng.choice(ITEMS, CANDIDATES, replace=False)]


def clicked(rng: np.random.Generator, items: list[int]) -> list[int]:
    return [int(rng.random() < (0.6 if GOOD[item] else 0.05)) for item in items]


def write_first_day(folder: Path, rng: np.random.Generator) -> None:
    """A log of which all was shown at random."""
    rows: dict[str, list[Any]] = {
        name: [] for name in ("request_id", "user_id", "item_id", "time", "level", "click", "propensity")
    }
    for n, time in enumerate(times_of(DAYS[0], 800, 200)):
        items = drawn_candidates(rng)
        labels = clicked(rng, items[:SHOWN])
        rows["request_id"] += [f"first-{n}"] * CANDIDATES
        rows["user_id"] += [int(rng.integers(USERS))] * CANDIDATES
        rows["item_id"] += items
        rows["time"] += [time] * CANDIDATES
        rows["level"] += [LEVELS[-1]] * SHOWN + [LEVELS[0]] * (CANDIDATES - SHOWN)
        rows["click"] += [*labels, *[None] * (CANDIDATES - SHOWN)]
        rows["propensity"] += [SHOWN / CANDIDATES] * CANDIDATES
    pl.DataFrame(rows).write_parquet(folder / "log" / "first.parquet")


def write_config(folder: Path) -> Path:
    pl.DataFrame({"item_id": np.arange(ITEMS), "good": GOOD.astype(float)}).write_parquet(
        folder / "items.parquet"
    )
    data: dict[str, Any] = {
        "log": "log/*.parquet",
        "items": "items.parquet",
        "request": ["request_id"],
        "time": "time",
    }
    data |= {"user": "user_id", "item": "item_id", "level": "level", "propensity": "propensity"}
    data |= {"labels": {"click": {"column": "click"}}, "split": {"valid": "2026-04-01T12:00:00"}}
    config = {
        "name": "explored",
        "data": data,
        "features": {
            "user_id": {"side": "user", "kind": "id"},
            "good": {"side": "item", "kind": "number", "scale": "none"},
        },
        "stages": [
            {"name": "prerank", "model": "towers", "keep": 6, "query": [8, 4], "item": [8, 4]},
            {"name": "rank", "model": "mlp", "keep": SHOWN, "hidden": [8]},
        ],
        "losses": [{"kind": "click", "stage": "rank"}, {"kind": "click", "stage": "prerank"}],
        "train": {"epochs": 12, "requests": 16, "prerank": {"lr": 0.02}, "rank": {"lr": 0.02}},
        # the second day has other levels than the first, of which all was drawn
        "drift": dict.fromkeys(("rows", "levels", "labels", "missing", "new_ids", "psi")),
    }
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    settings = {"config": "config.yaml", "first": "2026-04-01", "holdout": "12h", "gate": GATE, "verify": 2}
    # both stages, or the first one would keep what the second one puts last
    worse = ["stages.0.value=1 - click", "stages.1.value=1 - click"]
    path = folder / "daily.yaml"
    path.write_text(json.dumps(settings | {"store": "lmdb:store", "changes": worse}), encoding="utf-8")
    return path


def serve_second_day(folder: Path, rng: np.random.Generator, batch: int = 24) -> None:
    """Ask a service that explores, and add what it logged, with what was clicked, to the log."""
    bodies = [
        {"user": {"id": int(rng.integers(USERS))}, "time": to_ms(time), "candidates": drawn_candidates(rng)}
        for time in times_of(DAYS[1], 200, 1000)
    ]
    answers: list[dict[str, Any]] = []
    options = ("--explore", "50%", "--log", str(folder / "served"))
    with running_service(f"lmdb:{folder / 'store'}", folder / "cache", *options) as (url, _):
        for first in range(0, len(bodies), batch):
            content = json.dumps({"requests": bodies[first : first + batch]}).encode()
            headers = {"Content-Type": "application/json"}
            answers += json.load(urlopen(Call(f"{url}/rank/batch", content, headers)))["answers"]
    eventually(lambda: bool([*(folder / "served").glob("served-*.parquet")]))
    shown: list[tuple[str, int, int]] = []
    for answer in answers:
        items = [item["id"] for item in answer["items"]]
        shown += [(answer["served_id"], *pair) for pair in zip(items, clicked(rng, items), strict=True)]
    exposures = pl.DataFrame(shown, [SERVED, "item_id", "click"], orient="row")
    served = pl.read_parquet(folder / "served" / "served-*.parquet")
    assert served[EXPLORED].is_not_null().mean() == pytest.approx(0.5, abs=0.1)
    rows = served.join(exposures, on=[SERVED, "item_id"], how="left").with_columns(
        level=pl.when(pl.col("click").is_not_null()).then(pl.lit(LEVELS[-1])).otherwise("level")
    )
    rows.select(
        "request_id",
        "user_id",
        "item_id",
        pl.col("time").dt.cast_time_unit("us"),
        "level",
        "click",
        "propensity",
    ).write_parquet(folder / "log" / "second.parquet")


@pytest.mark.thorough
def test_a_worse_model_that_clicks_alone_would_pass_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "log").mkdir()
    write_first_day(tmp_path, rng)
    settings = write_config(tmp_path)
    assert corank.daily(settings).refused is None
    serve_second_day(tmp_path, rng)
    said: list[str] = []
    refused = corank.daily(settings, report=said.append).refused
    gates = [line for line in said if "gate: " in line]
    assert refused is not None and len(gates) == 2
    assert FIGURE in gates[0] and gates[0].endswith("NOT met"), gates
    assert CLICKS in gates[1] and gates[1].endswith(": met"), gates
