"""Nothing of the future leaks: what comes after a request, or after its snapshot, changes none of its features."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.core.ragged import Rows
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_history_items, read_query_rows
from corank.data.packing.pack import pack_log
from corank.features.history_events import HistoryNeeds
from tests.support.four_days import (
    DAY,
    FROZEN,
    HOUR,
    ITEMS,
    LISTED,
    LISTS,
    LIVE,
    REQUESTS,
    USERS,
    schema_of,
    settings_of,
    written,
)

pytestmark = pytest.mark.slow


def packed(folder: Path, log: pl.DataFrame, features: dict[str, Any]) -> PackedDataset:
    log.write_parquet(folder / "log.parquet")
    return pack_log(settings_of(features), schema_of(features), folder, folder / "packed")


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
    max_examples=5,
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


def test_the_features_do_depend_on_the_past(tmp_path: Path) -> None:
    """Proves that the tests above can fail."""
    log = written(tmp_path, 1)
    whole = features_of(packed(tmp_path, log, FROZEN | LIVE))
    other = features_of(packed(tmp_path, changed(log, pl.col("time") < 2 * DAY, "labels", 3), FROZEN | LIVE))
    last = log.filter(pl.col("time") >= 3 * DAY)["request"].unique().to_list()
    assert sum(whole[n] != other[n] for n in last) > len(last) / 2
