"""A log of a file a day, of a row a request, whose ids churn, and its config."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.support.configs import small_config

FIRST = datetime(2026, 4, 1, tzinfo=UTC)
ROWS = 40


def day_of(n: int) -> str:
    return (FIRST + timedelta(days=n)).date().isoformat()


def write_day(folder: Path, n: int, name: str = "", rows: int = ROWS, items: int = 10) -> None:
    """Write a file of a day's log, of a row a request; a fifth of the items are new each day."""
    rng = np.random.default_rng(n)
    (folder / "log").mkdir(exist_ok=True)
    number = np.arange(rows)
    pl.DataFrame(
        {
            "request": [f"{n}-{name}-{k}" for k in number],
            "user": rng.integers(0, 8, rows) + n,
            "item": rng.integers(0, items, rows) + n * items // 5,
            "time": [FIRST + timedelta(days=n, minutes=int(k)) for k in number],
            "click": rng.integers(0, 2, rows),
        }
    ).write_parquet(folder / "log" / f"{day_of(n)}{name}.parquet")


def config_of(n: int, folder: Path, **features: Any) -> dict[str, Any]:
    """A config whose n-th day trains, but for its last minutes, which validate."""
    begin = FIRST + timedelta(days=n, minutes=ROWS - 10)
    before = "" if not n else (begin - timedelta(days=1)).isoformat()
    split = {"train": f"{before}..{begin.isoformat()}", "valid": f"{begin.isoformat()}.."}
    features = {
        "user": {"side": "user", "kind": "id"},
        "item": {"side": "item", "kind": "id", "keep_days": 3, "max_rows": 25},
        "history": {"side": "user", "kind": "ids", "of": "item", "last": 5},
        "pair": {"kind": "pair", "of": ["user", "item"], "keep_days": 2},
        "ctr": {"kind": "prior", "by": ["item"], "label": "click"},
    } | features
    data = {"log": str(folder / "log/*.parquet"), "split": split}
    return small_config(features, data, name="days", packed=str(folder / "packed"), train={})
