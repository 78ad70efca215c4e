"""Candidates that a user saw before: how common they are, and the features that tell how often and how long ago."""

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from corank.core.yaml_names import quote

OFTEN_AGAIN = 0.02
"""From this share of candidates on that a user saw before, it is worth knowing."""
BUCKETS = "buckets: 16, dim: 4"
"""Of times and of rates that towers read: they learn a term of each range; of times minutes and weeks are apart."""
EVENTS = ("clicked", "shown")
"""Sorts of a log's own events, of which there may be histories."""
LAST = 200
"""Events of such a history, at most."""
ROWS = 4_000_000
"""Candidates that are read of a large log, about."""
CATEGORIES = 2
"""Features of items, at most, whose values are looked for in a history, in addition to the id."""
ITEMS = 5
"""Items that share a value, on average, from which on it is a category."""
NAMES = ("categor", "genre", "topic", "brand", "author", "creator", "seller", "shop", "tag", "theme")
"""What is in names of columns that say what kind of item it is."""


def _collect(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")


def measure_recurrence(
    rows: pl.LazyFrame,
    user: pl.Expr,
    item: pl.Expr,
    time: pl.Expr,
    events: Mapping[str, pl.Expr],
    collect: Callable[[pl.LazyFrame], pl.DataFrame] = _collect,
) -> dict[str, float]:
    """Measure the share of candidates that are of an earlier event of their user, by sort of event: 0 to 1.

    Of a large log some users are read, the same ones each time.

    Args:
        rows: a row an exposed candidate.
        user, item, time: of each.
        events: which candidates are events, by a name.
        collect: runs a query.
    """
    step = 1 + collect(rows.select(pl.len())).item() // ROWS
    keys = [user.alias("@user"), item.alias("@item"), time.alias("@time")]
    named = [happened.fill_null(False).alias(f"@{name}") for name, happened in events.items()]
    later = [
        (pl.col("@time") > pl.col("@time").filter(f"@{name}").min()).sum().alias(name) for name in events
    ]
    some = rows.select(*keys, *named).filter(pl.col("@user").hash(0) % step == 0)
    pairs = some.group_by("@user", "@item").agg(pl.len().alias("@rows"), *later)
    counted = collect(pairs.select(pl.col("@rows", *events).sum())).row(0, named=True)
    return {name: (counted[name] or 0) / max(counted["@rows"] or 0, 1) for name in events}


def describe_events(event: str, item: str, label: str) -> str:
    """Describe a history of the log's own exposures as the config does; no network reads its ids.

    Args:
        event: one of EVENTS.
        item: the feature of the candidate's id.
        label: of a click.
    """
    happened = f", event: {quote(label)}" if event == "clicked" else ""
    return f"{{side: user, kind: ids, of: {quote(item)}{happened}, input: false, last: {LAST}}}"


def recurrence_features(
    history: str, item: str, categories: Sequence[str] = (), timed: bool = True
) -> dict[str, str]:
    """Describe how often a candidate, or its category, is in a history, and how long ago it was, as the config does.

    Args:
        history: the feature.
        item: that of the candidate's id, which the history is `of`.
        categories: other features of items.
        timed: whether the times of the history's events are known; else the number of newer events is their age.
    """
    lines, measure = {}, "" if timed else ", measure: events"
    for feature in (item, *categories):
        of = f"[{quote(history if feature == item else f'{history}.{feature}')}, {quote(feature)}]"
        stem = history if feature == item else f"{history}_{feature}"
        lines[f"{stem}_count"] = f"{{kind: count, of: {of}}}"
        lines[f"{stem}_since"] = f"{{kind: since, of: {of}{measure}, {BUCKETS}}}"
    return lines


def find_categories(table: pl.DataFrame, features: Mapping[str, str]) -> list[str]:
    """Find the features of items that say what kind an item is: ids that several items share.

    Args:
        table: a row an item.
        features: by column, a feature of kind id or ids.
    """
    values = {
        column: (table[column].explode() if table[column].dtype.is_nested() else table[column]).n_unique()
        for column in features
    }
    shared = [column for column, count in values.items() if 2 < count <= len(table) / ITEMS]
    named = [any(part in column.lower() for part in NAMES) for column in shared]
    order = sorted(range(len(shared)), key=lambda n: (not named[n], -values[shared[n]]))
    return [features[shared[n]] for n in order[:CATEGORIES]]
