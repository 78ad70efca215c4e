"""The arms of `feature_cost`: each adds one feature, or one option of a ranker, to a config of plain columns."""

from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.core.settings import validate
from corank.training.config.config import Config
from corank.training.config.config_file import plain

Plain = dict[str, Any]
PLAIN = "plain"
"""The arm that all others are compared with."""
LISTED = {
    "side": "user",
    "kind": "ids",
    "of": "item_id",
    "column": "clicked",
    "times": "clicked_at",
    "every": "1d",
}
LONGEST = 60
"""Events of a list in the log, at most, of which a history reads the last 50 before midnight."""
HISTORY = {"side": "user", "kind": "ids", "of": "item_id", "event": "click", "every": "1d"}
ITEM_PRIOR = {"kind": "prior", "by": ["item_id"], "label": "click"}
FEATURES: dict[str, Plain] = {
    "id, query": {"hour_id": {"side": "context", "kind": "id", "column": "hour"}},
    "id, item": {"brand_again": {"side": "item", "kind": "id", "column": "brand"}},
    "id, logged cross": {"clicks_id": {"side": "cross", "kind": "id", "column": "category_clicks"}},
    "ids, item": {"tags_again": {"side": "item", "kind": "ids", "column": "tags"}},
    "number, query": {"activity_again": {"side": "user", "kind": "number", "column": "activity"}},
    "number, logged cross": {"clicks": {"side": "cross", "kind": "number", "column": "category_clicks"}},
    "bucket, query": {"activity_bucket": {"side": "user", "kind": "bucket", "column": "activity"}},
    "history": {"history": HISTORY},
    "history of a list": {"history": LISTED},
    "history, half_life": {"history": HISTORY | {"half_life": "2d"}},
    "history, and its brand": {
        "history": HISTORY,
        "brands": {"side": "user", "kind": "ids", "of": "history.brand"},
    },
    "pair, query": {"city_tab": {"kind": "pair", "of": ["city", "tab"]}},
    "pair, cross": {"city_brand": {"kind": "pair", "of": ["city", "brand"]}},
    "product, cross": {"product": {"kind": "product", "of": ["activity", "price"]}},
    "ratio, cross": {"ratio": {"kind": "ratio", "of": ["price", "activity"]}},
    "history, and contains": {
        "history": HISTORY,
        "seen": {"kind": "contains", "of": ["history", "item_id"]},
    },
    "history, and count of its brand": {
        "history": HISTORY,
        "brand_seen": {"kind": "count", "of": ["history.brand", "brand"]},
    },
    "prior, item": {"item_ctr": ITEM_PRIOR},
    "prior, item, every 10m": {"item_ctr": ITEM_PRIOR | {"every": "10m"}},
    "prior, user": {"user_ctr": {"kind": "prior", "by": ["user_id"], "label": "click"}},
    "prior, cross": {"user_brand_ctr": {"kind": "prior", "by": ["user_id", "brand"], "label": "click"}},
}
VECTOR = {"side": "item", "kind": "vector", "column": "content", "dim": 128, "normalise": True}
VECTORS: dict[str, Plain] = {
    "vector of 128": {"content": VECTOR},
    "vector of 128, projected to 32": {"content": VECTOR | {"project": 32}},
    "history, vector of 128, and their cosine": {
        "history": HISTORY,
        "content": VECTOR | {"input": False},
        "content_like": {"kind": "cosine", "of": ["history.content", "content"]},
    },
}
MOST = {"prior, item": 8.0, "prior, item, every 10m": 8.0, "vector of 128": 10.0}
"""Maximum additional time of a step, in percent."""
BESIDE = {
    "prior, item, every 10m": "prior, item",
    "history of a list": "history",
    "history, din and encoder": "history, and din",
    "2 labels, 4 experts": "2 labels",
    "2 labels, 2 experts and 1 own": "2 labels",
    "2 labels, 2 experts and 1 own, 2 levels": "2 labels",
}
"""Arms whose step is compared with that of an earlier arm."""
TIMES = 1.1
"""How many times the other's step a feature of `BESIDE` may take."""
LAB: Plain = {"model": "mlp_lab"}
RANKER: dict[str, tuple[Plain, Plain]] = {
    "history, and din": ({"history": HISTORY}, {"din": {"history": "history"}}),
    "history, and din with brand": (
        {"history": HISTORY},
        {"din": {"history": "history", "attributes": ["brand"]}},
    ),
    "history, din and encoder": (
        {"history": HISTORY},
        LAB | {"din": {"history": "history", "encoder": {"ages": True}}},
    ),
    "dcn, 2 layers": ({}, {"dcn": {"layers": 2}}),
    "dcn, 2 layers of rank 32": ({}, {"dcn": {"layers": 2, "rank": 32}}),
    "numbers by bins": ({}, LAB | {"numbers": {"kind": "piecewise"}}),
    "numbers by bins, embedded": ({}, LAB | {"numbers": {"kind": "piecewise", "dim": 8}}),
    "numbers by waves": ({}, LAB | {"numbers": {"kind": "periodic"}}),
    "gates": ({}, LAB | {"gates": {}}),
    "4 members": ({}, LAB | {"members": 4}),
    "8 members": ({}, LAB | {"members": 8}),
    "4 experts": ({}, LAB | {"experts": {}}),
    "8 experts": ({}, LAB | {"experts": {"shared": 8}}),
    "layer normalisation": ({}, {"normalisation": "layer"}),
    "prerank.score": ({}, {"from_stages": ["prerank.score"]}),
    "prerank.rank": ({}, {"from_stages": ["prerank.rank"]}),
}

EXPERTS: dict[str, Plain | None] = {
    "2 labels": None,
    "2 labels, 4 experts": {},
    "2 labels, 2 experts and 1 own": {"shared": 2, "own": 1},
    "2 labels, 2 experts and 1 own, 2 levels": {"shared": 2, "own": 1, "levels": 2},
}
"""Of a ranker that learns clicks twice: what two labels cost, and experts of theirs."""


def add_lists(folder: Path) -> None:
    """Add to each row of the log in a folder what the user had clicked before, as lists of items and times."""
    logs = {path: pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    rows = pl.concat(logs.values())
    clicks = rows.filter(pl.col("is_click") == 1).sort("time").group_by("user_id").agg("item_id", "time")
    history = {user: (items, times) for user, items, times in clicks.iter_rows()}
    requests = rows.select("request_id", "user_id", "time").unique("request_id", maintain_order=True)
    lists: list[tuple[list[Any], list[Any]]] = []
    for _, user, when in requests.iter_rows():
        items, times = history.get(user, ([], []))
        seen = slice(max(0, bisect_left(times, when) - LONGEST), bisect_left(times, when))
        lists.append((items[seen], times[seen]))
    columns = zip(("clicked", "clicked_at"), zip(*lists, strict=True), ("item_id", "time"), strict=True)
    listed = requests.select("request_id").with_columns(
        pl.Series(name, values, dtype=pl.List(rows.schema[of])) for name, values, of in columns
    )
    for path, log in logs.items():
        log.join(listed, on="request_id", how="left", maintain_order="left").write_parquet(path)


def arms(config: Config) -> dict[str, Config]:
    base = plain(config)
    kept = {n: f for n, f in base["features"].items() if f["side"] != "cross" and not f.get("of")}
    losses = [loss for loss in base["losses"] if loss["kind"] == "click"]
    base |= {"features": kept, "losses": losses}
    variants = {PLAIN: base, "plain again": base}
    for name, features in (FEATURES | VECTORS).items():
        variants[name] = base | {"features": kept | features}
    for name, (features, options) in RANKER.items():
        prerank, rank = base["stages"]
        variants[name] = base | {"features": kept | features, "stages": [prerank, rank | options]}
    prerank, rank = base["stages"]
    again = {"labels": base["data"]["labels"] | {"again": {"column": "is_click"}}}
    both = [*losses, {"kind": "click", "stage": rank["name"], "label": "again"}]
    for name, experts in EXPERTS.items():
        mixed = {} if experts is None else LAB | {"experts": experts}
        ranker = rank | {"labels": ["click", "again"]} | mixed
        variants[name] = base | {"data": base["data"] | again, "losses": both, "stages": [prerank, ranker]}
    user = [n for n, f in kept.items() if f["side"] == "user"]
    context = [n for n, f in kept.items() if f["side"] == "context"]
    towers = {"user": {"features": user}, "context": {"features": context, "widths": [64, 32]}}
    variants["two query towers"] = base | {"stages": [prerank | {"query_towers": towers}, rank]}
    variants["position"] = base | {"data": base["data"] | {"position": "position"}}
    return {
        name: validate(Config, value | {"name": f"arm-{n}"}, name)
        for n, (name, value) in enumerate(variants.items())
    }


def add_vectors(items: Path) -> None:
    """Give every item a vector."""
    table = pl.read_parquet(items)
    drawn = np.random.default_rng(0).normal(size=(len(table), 128)).astype(np.float32)
    table.with_columns(pl.Series("content", drawn)).write_parquet(items)
