"""Nothing of the future leaks: what comes after a request, or after its snapshot, changes none of its features."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from corank.core.ragged import Rows
from corank.data.dataset import PackedDataset
from corank.data.packed_history import read_history_items, read_query_rows
from corank.data.packing.pack import pack_log
from corank.features.feature_kind import Feature
from corank.features.history import HistoryNeeds
from corank.features.log_schema import DataSettings, EventTable, Label
from corank.features.schema import Schema
from corank.features.splits.by_time import TimeSplit

pytestmark = pytest.mark.slow

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
    "carts": {"kind": "prior", "by": ["item"], "events": "carts", "every": "1h", "scale": "none"},
    "user_brand_carts": {"kind": "prior", "by": ["user", "brand"], "events": "carts", "every": "1h", "lag": "2h",
                         "window": "1d", "scale": "none"},
}  # fmt: skip
"""Of lists of the log and of a table of events, as of the request."""
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


def packed(folder: Path, log: pl.DataFrame, features: dict[str, Any]) -> PackedDataset:
    log.write_parquet(folder / "log.parquet")
    data = DataSettings(
        events={"carts": EventTable(table="carts.parquet")} if "carted" in features else {},
        log="log.parquet",
        items="items.parquet",
        request=["request"],
        user="user",
        item="item",
        time="time",
        labels={
            "click": Label(column="click"),
            "buy": Label.model_validate({"column": "buy", "given": "click", "matures_after": "5h"}),
        },
        as_of=date(1970, 1, 9),
        split=TimeSplit(valid=date(1970, 1, 3), test=date(1970, 1, 4)),
    )
    schema = Schema(TypeAdapter(dict[str, Feature]).validate_python(features))
    return pack_log(data, schema, folder, folder / "packed")


def plain(rows: Rows, n: int) -> list[Any]:
    """A row, lists and weights written out."""
    lists = [values.take(np.array([n])) for values in rows.lists]
    weights = [w.tolist() for values in lists if (w := values.flat_weight()) is not None]
    return [rows.ids[n].tolist(), rows.numbers[n].tolist(), [v.flat().tolist() for v in lists], weights]


def features_of(found: PackedDataset) -> dict[int, dict[int, list[Any]]]:
    """Request → item → all that a stage may see of it."""
    seen: dict[int, dict[int, list[Any]]] = {}
    for shards in found.splits.values():
        for shard in shards:
            every = np.arange(len(shard))
            past = read_history_items(found, shard, every, HistoryNeeds.of(found.schema).for_rows)
            query, items = read_query_rows(found, shard, every, past), found.items.take(shard.item)
            ids = found.item_keys["item"].gather(shard.item).to_list()
            for n in range(len(shard)):
                first, end = shard.request_start[n : n + 2].tolist()
                seen[shard.request_key(n)["request"]] = {
                    ids[c]: [
                        plain(query, n),
                        *(plain(rows, c) for rows in (items, shard.snapshot, shard.cross)),
                    ]
                    for c in range(first, end)
                }
    return seen


def change_lists(folder: Path, log: pl.DataFrame, limit: int, seed: int) -> pl.DataFrame:
    """Replace events: those of the table from a time on by others, those that a request lists after itself by none."""
    rng = np.random.default_rng(seed)
    carts = pl.read_parquet(folder / "carts.parquet")
    later = pl.col("time") >= limit
    other = (
        carts.filter(later)
        .with_columns(item=pl.lit(int(rng.integers(ITEMS)), pl.Int64), tab=pl.lit(2, pl.Int64))
        .reverse()
    )
    pl.concat([other, carts.filter(~later)]).write_parquet(folder / "carts.parquet")
    numbered = log.with_row_index("row")
    known = numbered.explode(LISTS).filter(pl.col("viewed_at") < pl.col("time"))
    kept = known.group_by("row", maintain_order=True).agg(LISTS)
    joined = numbered.drop(LISTS).join(kept, on="row", how="left", maintain_order="left")
    return joined.drop("row")


def changed(log: pl.DataFrame, later: pl.Expr, how: str, seed: int) -> pl.DataFrame:
    """The log with other rows in the place of the `later` ones."""
    before, after = log.filter(~later), log.filter(later)
    rng = np.random.default_rng(seed)
    match how:
        case "gone":
            after = after.clear()
        case "labels":
            drawn = {c: rng.integers(0, 2, len(after)) for c in ("click", "buy")}
            after = after.with_columns(**{c: pl.Series(c, v, dtype=pl.Int64) for c, v in drawn.items()})
        case "users":
            other = rng.permutation(USERS)
            after = after.with_columns(user=pl.Series(other).gather(after["user"]))
        case "order":
            after = after.with_columns(request=pl.col("request").max() - pl.col("request") + 1000)
        case "first":
            return pl.concat([after, before])
    return pl.concat([before, after])


WAYS = ["gone", "labels", "users", "first", "order"]
fewer = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fewer
@given(st.integers(0, 10**6), st.integers(1, 4 * 24), st.sampled_from(WAYS))
def test_what_comes_after_a_request_changes_none_of_its_features(
    tmp_path_factory: pytest.TempPathFactory, seed: int, hour: int, how: str
) -> None:
    folder = tmp_path_factory.mktemp("leaks")
    log = written(folder, seed)
    limit = hour * HOUR
    # the last two splits keep a row each, since an empty one is refused
    ends = log.filter(pl.col("request").is_in([REQUESTS - 1]) | (pl.col("time") == 2 * DAY))[
        "request"
    ].unique()
    later = (pl.col("time") >= limit) & ~pl.col("request").is_in(ends.implode())
    whole = features_of(packed(folder, log, FROZEN | LIVE | LISTED))
    after = change_lists(folder, changed(log, later, how, seed), limit, seed)
    other = features_of(packed(folder, after, FROZEN | LIVE | LISTED))
    earlier = log.filter(pl.col("time") < limit)["request"].unique().to_list()
    assert {n: other[n] for n in earlier} == {n: whole[n] for n in earlier}


@fewer
@given(st.integers(0, 10**6), st.integers(0, REQUESTS - 1), st.sampled_from(WAYS[:-1]))
def test_what_comes_after_a_snapshot_changes_nothing_that_is_frozen(
    tmp_path_factory: pytest.TempPathFactory, seed: int, request: int, how: str
) -> None:
    folder = tmp_path_factory.mktemp("leaks")
    log = written(folder, seed)
    midnight = log.filter(pl.col("request") == request)["time"][0] // DAY * DAY
    kept = [request, REQUESTS - 1, log.filter(pl.col("time") == 2 * DAY)["request"][0]]
    later = (pl.col("time") >= midnight) & ~pl.col("request").is_in(kept)
    whole = features_of(packed(folder, log, FROZEN))
    other = features_of(packed(folder, changed(log, later, how, seed), FROZEN))
    assert other[request] == whole[request]


def test_counts_of_events_do_depend_on_the_past(tmp_path: Path) -> None:
    features = {n: f for n, f in (FROZEN | LISTED).items() if f["kind"] != "prior" or "events" in f}
    log = written(tmp_path, 1)
    whole = packed(tmp_path, log, features)
    carts = pl.read_parquet(tmp_path / "carts.parquet")
    carts.filter(pl.col("time") >= 2 * DAY).write_parquet(tmp_path / "carts.parquet")
    other = packed(tmp_path, log, features)
    for placement, name in (("snapshot", "carts"), ("cross", "user_brand_carts")):
        at = whole.schema.row_features(placement).numbers_at[name]  # type: ignore[arg-type]
        found, changed = (
            np.concatenate([getattr(shard, placement).numbers[:, at] for shard in p.splits["valid"]])
            for p in (whole, other)
        )
        assert (found > changed).mean() > 0.2


def test_the_features_do_depend_on_the_past(tmp_path: Path) -> None:
    """So that the tests above could fail."""
    log = written(tmp_path, 1)
    whole = features_of(packed(tmp_path, log, FROZEN | LIVE))
    other = features_of(packed(tmp_path, changed(log, pl.col("time") < 2 * DAY, "labels", 3), FROZEN | LIVE))
    last = log.filter(pl.col("time") >= 3 * DAY)["request"].unique().to_list()
    assert sum(whole[n] != other[n] for n in last) > len(last) / 2
