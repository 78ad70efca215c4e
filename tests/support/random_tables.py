"""The tables of a random world: log, items and users."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.support.random_config import columns_by_name
from tests.support.random_worlds import DAY, HOUR, ITEMS, LEVELS, REQUESTS, Drawn


def write_tables(base: Path, drawn: Drawn, rng: np.random.Generator) -> pl.DataFrame:
    """Users 8 and 9 are in no table, items 12 to 14 in no training row, item 15 in no row of the log."""
    columns = columns_by_name(drawn)

    def drawn_columns(side: str, late: np.ndarray) -> dict[str, pl.Series]:
        return {n: _values(f, late, rng) for n, f in columns.items() if n.startswith(side)}

    time = np.sort(rng.integers(0, 4 * DAY // HOUR, REQUESTS)) * HOUR  # some at once
    time[[0, -14, -1]] = 0, 2 * DAY, 4 * DAY - HOUR
    time.sort()
    sizes = rng.integers(1, 6, REQUESTS)
    each = np.repeat(np.arange(REQUESTS), sizes)
    late = time >= 3 * DAY
    user = rng.integers(0, 8 + 2 * late, REQUESTS)
    item = np.concatenate([rng.permutation(15 if late[r] else 12)[:n] for r, n in enumerate(sizes)])
    # numbered at random, so that the requests of the log are not in the order of time
    number = rng.permutation(REQUESTS)
    by_request = drawn_columns("context", late) | drawn_columns("logged", late)
    log = pl.DataFrame(
        {
            "request": number[each],
            "user_id": _ids("u", user, drawn)[each],
            "item_id": _ids("i", item, drawn),
            "time": time[each],
            "level": rng.choice(LEVELS, len(each), p=(0.2, 0.2, 0.6)),
            "click": rng.integers(0, 2, len(each)),
            "buy": pl.Series(rng.integers(0, 3, len(each))).replace(2, None),
            "score": pl.Series(np.arange(len(each)) % 3 / 2).replace(0.5, None),
            "bid": rng.random(len(each)),
            "position": pl.Series(rng.integers(0, 4, len(each))).replace(3, None),
        }
        | {name: values.gather(each) for name, values in by_request.items()}
        | {name: values.gather(each) for name, values in _lists("log", time, drawn, rng).items()}
        | drawn_columns("cross", late[each])
        | ({"since": _moments(rng, REQUESTS).cast(pl.Date).gather(each)} if drawn["derived"] else {})
    )
    log.sample(fraction=1, shuffle=True, seed=drawn["seed"] % 1000).write_parquet(base / "log.parquet")
    items = pl.DataFrame(
        {"item_id": _ids("i", np.arange(ITEMS), drawn), "worth": rng.random(ITEMS)}
        | drawn_columns("item", np.arange(ITEMS) >= 12)
        | ({"born": _moments(rng, ITEMS).dt.epoch("ms")} if drawn["derived"] else {})
    )
    if drawn.get("versions"):
        items = _add_versions(items)
    items.write_parquet(base / "items.parquet")
    # users 0 to 3 change twice, 2 and 3 hold from a time only
    who, since = np.repeat(np.arange(8), [3, 3, 2, 2, 1, 1, 1, 1]), [None, 1, 2] * 2 + [1, 3] * 2 + [None] * 4
    users = pl.DataFrame(
        {
            "user_id": _ids("u", who, drawn),
            "valid_from": pl.Series(since, dtype=pl.Int64) * DAY,
        }
        | drawn_columns("user", np.zeros(len(who), dtype=bool))
        | ({"joined": _moments(rng, len(who))} if drawn["derived"] else {})
        | _lists("users", np.full(len(who), 2 * DAY), drawn, rng)
    )
    users.write_parquet(base / "users.parquet")
    for n, history in enumerate(drawn["histories"]):
        if history.get("source") == "events":
            _events(drawn, rng).write_parquet(base / f"past_{n}.parquet")
    if drawn.get("counted"):
        _events(drawn, np.random.default_rng(drawn["seed"] + 4)).write_parquet(base / "counted.parquet")
    return items


def _add_versions(items: pl.DataFrame) -> pl.DataFrame:
    """Items 0 to 7 have on each later day the columns of a neighbour."""
    tables = [items.with_columns(valid_from=pl.lit(None, pl.Int64))]
    for n in (1, 2, 3):
        neighbours = items[[(k + n) % 8 for k in range(8)]]
        tables.append(neighbours.with_columns(items["item_id"].head(8), valid_from=pl.lit(n * DAY, pl.Int64)))
    return pl.concat(tables)


def _lists(table: str, time: np.ndarray, drawn: Drawn, rng: np.random.Generator) -> dict[str, pl.Series]:
    """The columns of a table that list events before and after a time, some of items that no table knows."""
    columns: dict[str, pl.Series] = {}
    for n, history in enumerate(drawn["histories"]):
        if history.get("table") != table:
            continue
        separator = history["separator"]

        def column(values: list[list[Any]], separator: str | None = separator) -> pl.Series:
            if separator is None:
                return pl.Series(values)
            return pl.Series([separator.join(map(str, some)) for some in values])

        sizes = rng.integers(0, 6, len(time))
        items = [_ids("i", rng.integers(0, ITEMS + 2, size), drawn).to_list() for size in sizes]
        times = [(rng.integers(-48, 24, k) * HOUR + t).tolist() for t, k in zip(time, sizes, strict=True)]
        columns[f"seen_{n}"] = column(items)
        columns[f"when_{n}"] = column(times)
        columns[f"dwell_{n}"] = column([rng.integers(0, 4, size).tolist() for size in sizes])
    return columns


def _events(drawn: Drawn, rng: np.random.Generator) -> pl.DataFrame:
    """A table of events of two days before the log and during it, some of users and items that no table knows."""
    count = 150
    return pl.DataFrame(
        {
            "who": _ids("u", rng.integers(0, 12, count), drawn),
            "what": _ids("i", rng.integers(0, ITEMS + 2, count), drawn),
            "at": pl.Series(rng.integers(-48, 96, count) * HOUR).cast(pl.Datetime("ms")),
            "did": [f"filter {n}" for n in np.arange(count) % 11],
        }
        | {f"dwell_{n}": rng.integers(0, 4, count) for n in range(len(drawn["histories"]))}
    )


def _moments(rng: np.random.Generator, rows: int) -> pl.Series:
    """Times before and within those of the log, a fifth of them missing."""
    ms = pl.Series(rng.integers(-20 * DAY, 4 * DAY, rows)).cast(pl.Datetime("ms"))
    return ms.set(pl.Series(rng.random(rows) < 0.2), None)


def _ids(letter: str, numbers: np.ndarray, drawn: Drawn) -> pl.Series:
    return pl.Series([f"{letter}{n}" for n in numbers] if drawn["text_ids"] else numbers)


def _values(feature: Drawn, late: np.ndarray, rng: np.random.Generator) -> pl.Series:
    """Values of a column, a fifth of them missing; `late` rows hold some that no training row does."""
    rows = len(late)
    missing = rng.random(rows) < 0.2
    missing[0] = False
    if feature["kind"] in ("number", "bucket"):
        numbers = rng.normal(0, 20, rows) * np.where(late, 3, 1)
        values: list[Any] = (numbers.round().astype(int) if feature.get("whole") else numbers).tolist()
    elif feature["kind"] == "vector":
        vectors = rng.normal(0, 1, (rows, feature["dim"])) * (rng.random((rows, 1)) > 0.1)
        values = vectors.astype(np.float32).tolist()
    elif feature["kind"] == "id":
        values = [_word(rng.integers(0, 5 + 3 * far), feature) for far in late]
    else:
        lists = [rng.integers(0, 5 + 3 * far, rng.integers(0, 5)).tolist() for far in late]
        lists[0] = [1, 2]
        values = [[_word(v, feature) for v in some] for some in lists]
        if "separator" in feature:
            values = [" ,".join(map(str, some)) for some in values]
    return pl.Series([None if gone else value for value, gone in zip(values, missing, strict=True)])


def _word(value: int, feature: Drawn) -> Any:
    return f"w{value}" if feature["text"] else int(value)
