"""A log of four days with histories, priors and lists of every sort, whose encoders learn nothing."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import TypeAdapter

from corank.features.feature_kind import Feature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.features.split import SplitRule, TimeSplit
from tests.support.configs import DATA, data_settings

HOUR, DAY = 3_600_000, 86_400_000
USERS, ITEMS, REQUESTS = 5, 8, 40
HASHED = {"kind": "id", "hash": 997, "dim": 4}
"""Encoders that learn nothing of the log: every value can be compared, those of training too."""
FROZEN: dict[str, Any] = {
    "user": {"side": "user"} | HASHED,
    "tab": {"side": "context"} | HASHED,
    "hour": {"side": "context", "kind": "number", "scale": "none"},
    "item": {"side": "item"} | HASHED,
    "brand": {"side": "item"} | HASHED,
    "born": {"side": "item", "kind": "time"},
    "age": {"kind": "age", "of": "born", "every": "1d", "scale": "none"},
    "price": {"side": "item", "kind": "number", "scale": "none"},
    "clicked": {"side": "user", "kind": "ids", "of": "item", "event": "click", "every": "1d", "dim": 4},
    "brands": {"side": "user", "kind": "ids", "of": "clicked.brand", "dim": 4},
    "user_tab": {"kind": "pair", "of": ["user", "tab"], "hash": 997, "dim": 4},
    "tab_brand": {"kind": "pair", "of": ["tab", "brand"], "hash": 997, "dim": 4},
    "dear": {"kind": "ratio", "of": ["price", "hour"], "scale": "none"},
    "seen": {"kind": "contains", "of": ["clicked", "item"]},
    "brand_seen": {"kind": "count", "of": ["clicked.brand", "brand"], "scale": "none"},
    "brand_since": {"kind": "since", "of": ["clicked.brand", "brand"], "scale": "none"},
    "item_ctr": {"kind": "prior", "by": ["item"], "label": "click", "scale": "none"},
    "item_shown": {"kind": "prior", "by": ["item"], "scale": "none"},
    "user_tab_ctr": {"kind": "prior", "by": ["user", "tab"], "label": "click", "scale": "none"},
    "user_brand_buys": {
        "kind": "prior",
        "by": ["user", "brand"],
        "label": "buy",
        "scale": "none",
        "lag": "2h",
    },
    "item_lately": {"kind": "prior", "by": ["item"], "label": "click", "window": "1d", "scale": "none"},
    "user_fading": {"kind": "prior", "by": ["user"], "label": "buy", "half_life": "9h", "scale": "none"},
}
"""As of midnight."""
LIVE: dict[str, Any] = {
    "shown": {"side": "user", "kind": "ids", "of": "item", "lag": "30m", "half_life": "6h", "dim": 4},
    "bought": {"side": "user", "kind": "ids", "of": "item", "event": "buy", "dim": 4},
    "again": {"kind": "count", "of": ["shown", "item"], "scale": "none"},
    "since": {"kind": "since", "of": ["shown", "item"], "scale": "none"},
    "brand_ctr": {"kind": "prior", "by": ["brand"], "label": "click", "every": "1h", "scale": "none"},
    "user_buys": {"kind": "prior", "by": ["user"], "label": "buy", "every": "3h", "scale": "none"},
    "exact_age": {"kind": "age", "of": "born", "scale": "none"},
    "candidates": {"kind": "candidates", "scale": "none"},
    "brand_lately": {"kind": "prior", "by": ["brand"], "every": "1h", "window": "5h", "scale": "none"},
    "tab_fading": {
        "kind": "prior",
        "by": ["tab"],
        "label": "click",
        "every": "1h",
        "half_life": "3h",
        "scale": "none",
    },
}
"""As of the request, or nearly."""
LISTED: dict[str, Any] = {
    "viewed": {"side": "user", "kind": "ids", "of": "item", "column": "viewed", "times": "viewed_at", "last": 4,
               "half_life": "6h"},
    "viewed_tabs": {"side": "user", "kind": "ids", "parallel_to": "viewed", "hash": 997},
    "carted": {"side": "user", "kind": "ids", "of": "item", "events": "carts", "lag": "30m"},
    "carted_tabs": {"side": "user", "kind": "ids", "parallel_to": "carted", "column": "tab", "hash": 997},
    "cart_again": {"kind": "count", "of": ["carted", "item"], "scale": "none"},
    "viewed_brand": {"kind": "count", "of": ["viewed.brand", "brand"], "scale": "none"},
    "viewed_here": {"kind": "count", "of": ["viewed_tabs", "tab"], "scale": "none"},
    "viewed_like": {"kind": "count", "of": ["viewed_tabs", "brand"], "scale": "none"},
    "carted_like": {"kind": "contains", "of": ["carted_tabs", "brand"]},
    "cart_since": {"kind": "since", "of": ["carted", "item"], "scale": "none"},
    "viewed_since": {"kind": "since", "of": ["viewed.brand", "brand"], "scale": "none"},
    "carted_since": {"kind": "since", "of": ["carted_tabs", "tab"], "measure": "events", "scale": "none"},
    "carts": {"kind": "prior", "by": ["item"], "events": "carts", "every": "1h", "scale": "none"},
    "user_brand_carts": {"kind": "prior", "by": ["user", "brand"], "events": "carts", "every": "1h", "lag": "2h",
                         "window": "1d", "scale": "none"},
}  # fmt: skip
"""Of lists of the log and of a table of events, at the time of the request."""
LISTS = ("viewed", "viewed_at", "viewed_tabs")


def written(folder: Path, seed: int) -> pl.DataFrame:
    """A log of four days, some requests at once; brands change at noon of the second day."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(0, 4 * DAY // HOUR, REQUESTS)) * HOUR
    time[[0, -10, -1]] = 0, 2 * DAY, 4 * DAY - HOUR
    time.sort()
    sizes = rng.integers(1, 4, REQUESTS)
    each = np.repeat(np.arange(REQUESTS), sizes)
    items = np.concatenate([rng.permutation(ITEMS)[:n] for n in sizes])
    who, tabs = rng.integers(0, USERS, REQUESTS), rng.integers(0, 3, REQUESTS)
    brand = rng.integers(0, 3, 2 * ITEMS)
    pl.DataFrame(
        {
            "item": np.tile(np.arange(ITEMS), 2),
            "valid_from": pl.Series([None] * ITEMS + [36 * HOUR] * ITEMS, dtype=pl.Int64),
            "brand": brand,
            "price": rng.uniform(1, 9, 2 * ITEMS),
            "born": rng.integers(-3 * DAY, 3 * DAY, 2 * ITEMS),
        }
    ).write_parquet(folder / "items.parquet")
    return pl.DataFrame(
        {name: values.gather(each) for name, values in listed(folder, time, rng).items()}
        | {
            "request": each,
            "user": who[each],
            "item": items,
            "time": time[each],
            "tab": tabs[each],
            "hour": time[each] // HOUR % 24 + 1,
            "click": rng.integers(0, 2, len(each)),
            "buy": rng.integers(0, 2, len(each)),
        }
    )


def listed(folder: Path, time: np.ndarray, rng: np.random.Generator) -> dict[str, pl.Series]:
    """Lists of events for each request, before it and after it; a table of events is written to the folder."""
    sizes, events = rng.integers(0, 6, REQUESTS), 3 * REQUESTS
    pl.DataFrame(
        {
            "user": rng.integers(0, USERS + 1, events),
            "item": rng.integers(0, ITEMS + 2, events),
            "time": rng.integers(-24, 4 * 24, events) * HOUR,
            "tab": rng.integers(0, 3, events),
        }
    ).write_parquet(folder / "carts.parquet")
    items, tabs = ([rng.integers(0, most, n).tolist() for n in sizes] for most in (ITEMS + 2, 3))
    times = [(t + rng.integers(-48, 24, n) * HOUR).tolist() for t, n in zip(time, sizes, strict=True)]
    columns = zip(LISTS, (items, times, tabs), strict=True)
    return {name: pl.Series(values, dtype=pl.List(pl.Int64)) for name, values in columns}


HALVES = TimeSplit(valid=date(1970, 1, 3), test=date(1970, 1, 4))
"""Two days train, a day validates, a day tests."""


def settings_of(features: dict[str, Any], split: SplitRule = HALVES) -> DataSettings:
    """The settings of the tables that `written` writes."""
    data = data_settings(
        events={"carts": {"table": "carts.parquet"}} if "carted" in features else {},
        items="items.parquet",
        labels=DATA["labels"] | {"buy": {"column": "buy", "given": "click", "matures_after": "5h"}},
        as_of="1970-01-09",
    )
    return data.model_copy(update={"split": split})


def schema_of(features: dict[str, Any]) -> Schema:
    """Plain features as a schema."""
    return Schema(TypeAdapter(dict[str, Feature]).validate_python(features))
