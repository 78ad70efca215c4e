"""Pairs of an attribute of the user, or of the context, and one of the item whose rate of clicks tells more than both.

A network learns such pairs slowly, from products of embeddings. As a prior a pair is one number.

Letters: F folds · U values of the user's attribute · I values of the item's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
import yaml

from corank.core.reports import Report
from corank.core.types import Doubles, Longs
from corank.datasets.list_columns import free_name

MOST_PAIRS = 4
"""So many pairs are chosen, at most."""
MOST_VALUES, MOST_CELLS = 200, 4_000
"""Of an attribute, and of a pair."""
SMOOTHING = 20.0
"""Candidates of the rate that is expected which are added to those of a pair."""
FOLDS = 10
SURE, LEAST = 3.0, 0.002
"""The gain in standard errors over folds, and as a share of what is to be told, from which on a pair is chosen."""
BUCKETS = "buckets: 16, dim: 4"
"""Of the rates that are matches: towers learn a term for a range of rates sooner than a weight of the rate, which the
ranker reads as a number."""
SAMPLE = 500_000
"""Candidates that are looked at, about; the last ones."""


@dataclass(frozen=True)
class AttributePair:
    """Two attributes, and what their pair adds."""

    user: str
    item: str
    gain: float
    """Of the log-likelihood of clicks, beyond both attributes alone, as a share of the entropy of clicks."""


@dataclass(frozen=True)
class ListedLog:
    """The training days of a log of lists, with its tables."""

    impressions: pl.LazyFrame
    """In the order of time."""
    user: str
    item: str
    """Columns; that of the item is of the table of items."""
    candidates: str
    label: str
    aligned: bool
    """Whether the label is a list of 0 and 1, an element a candidate; else of the clicked candidates."""
    tables: Mapping[str, pl.LazyFrame]
    """Of `user` and `item`, those that there are."""

    def read(self, columns: Mapping[str, Mapping[str, str]]) -> pl.DataFrame:
        """Read candidates, a row each: features, and whether it was clicked, as `@label`.

        Args:
            columns: feature → column, by side: `context`, `user` and `item`.
        """
        logged = {**columns["context"], **({} if "user" in self.tables else columns["user"])}
        chosen = self.impressions.select(
            pl.col(self.candidates).alias("@item"),
            pl.col(self.label).alias("@label"),
            pl.col(self.user).alias("@user"),
            *_renamed(logged),
        )
        size = chosen.select(pl.col("@item").list.len().mean()).collect().item() or 1
        rows = (
            chosen.tail(int(SAMPLE / size) + 1)
            .collect()
            .explode("@item", *(["@label"] if self.aligned else []))
        )
        among = pl.col("@item").is_in(pl.col("@label")).fill_null(False)
        label = pl.col("@label") == 1 if self.aligned else among
        rows = rows.with_columns(label.alias("@label")).drop_nulls(["@item", "@label"])
        for side, key in (("user", self.user), ("item", self.item)):
            if side in self.tables and columns[side]:
                kind = pl.Int64 if rows.schema[f"@{side}"].is_integer() else pl.String
                table = self.tables[side].select(
                    pl.col(key).cast(kind).alias(f"@{side}"), *_renamed(columns[side])
                )
                keyed = rows.with_columns(pl.col(f"@{side}").cast(kind))
                rows = keyed.join(table.collect(), f"@{side}", how="left", maintain_order="left")
        return rows


def _renamed(columns: Mapping[str, str]) -> list[pl.Expr]:
    return [pl.col(column).alias(name) for name, column in columns.items()]


def describe_pairs(features: Mapping[str, str], log: ListedLog, report: Report) -> dict[str, str]:
    """Describe the rates of pairs as features, in the config's words, and report what each tells.

    Args:
        features: those of columns, with their settings.
        log: the log.
        report: takes a line about each pair.
    """
    columns: dict[str, dict[str, str]] = {"context": {}, "user": {}, "item": {}}
    for name, text in features.items():
        settings = yaml.safe_load(text)
        column = settings.get("column", name)
        if settings["kind"] in ("id", "bucket") and column not in (log.user, log.item):
            columns.get(settings.get("side"), {})[name] = column
    users = [*columns["user"], *columns["context"]]
    if not (users and columns["item"]):
        return {}
    lines: dict[str, str] = {}
    for pair in choose_pairs(log.read(columns), users, list(columns["item"]), "@label"):
        name = free_name(f"{pair.user}_{pair.item}_clicks", {**features, **lines})
        by = ", ".join(map(json.dumps, (pair.user, pair.item)))
        prior = f"kind: prior, by: [{by}], label: click, every: 1h, smoothing: auto"
        lines[name] = f"{{{prior}}}"
        lines[free_name(f"{name}_bucket", {**features, **lines})] = f"{{{prior}, {BUCKETS}}}"
        better = f"tells clicks better than the rates of both, by {pair.gain:.1%} of their entropy"
        report(f"{name}: the rate of {pair.user} × {pair.item} {better}")
    return lines


def choose_pairs(
    rows: pl.DataFrame, users: Sequence[str], items: Sequence[str], label: str
) -> list[AttributePair]:
    """Choose the pairs of attributes that tell clicks best.

    What a pair adds is counted on each tenth of the requests by rates of the others. Where a pair tells nothing, that
    is below zero.

    Args:
        rows: a row a candidate of training days, in the order of time: attributes, and `label`, whether it was clicked.
        users: columns of the user or the context.
        items: columns of the item.
        label: column of true and false, or of 0 and 1.

    Returns:
        At most MOST_PAIRS, the best first.
    """
    clicked = rows[label].cast(pl.Float64).fill_null(0.0).to_numpy()
    rate = clicked.mean() if len(clicked) else 0.0
    if not 0 < rate < 1:
        return []
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    fold = np.arange(len(rows)) * FOLDS // len(rows)
    codes = {name: values for name in (*users, *items) if len(values := _codes(rows[name]))}
    found = []
    for user, item in product((n for n in users if n in codes), (n for n in items if n in codes)):
        sizes = (FOLDS, int(codes[user].max()) + 1, int(codes[item].max()) + 1)
        if sizes[1] * sizes[2] > MOST_CELLS:
            continue
        cell = np.ravel_multi_index((fold, codes[user], codes[item]), sizes)
        cells = int(np.prod(sizes))
        shown = np.bincount(cell, minlength=cells).reshape(sizes).astype(np.float64)
        ones = np.bincount(cell, clicked, cells).astype(np.float64).reshape(sizes)
        gains = _gain_by_fold(shown, ones) / entropy
        error = gains.std(ddof=1) / np.sqrt(FOLDS)
        if gains.mean() >= max(LEAST, SURE * error):
            found.append(AttributePair(user, item, float(gains.mean())))
    return sorted(found, key=lambda pair: -pair.gain)[:MOST_PAIRS]


def _codes(column: pl.Series) -> Longs:
    """Number the values; none if there are too many, or one alone."""
    if not 2 <= column.n_unique() <= MOST_VALUES:
        return np.empty(0, dtype=np.int64)
    return column.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def _gain_by_fold(shown: Doubles, clicked: Doubles) -> Doubles:
    """The gain of log-likelihood a candidate of each fold by rates of the other folds: (F,).

    Args:
        shown: candidates of each pair: (F, U, I).
        clicked: those that were clicked: (F, U, I).
    """
    others, ones = shown.sum(axis=0) - shown, clicked.sum(axis=0) - clicked
    overall = ones.sum(axis=(1, 2), keepdims=True) / others.sum(axis=(1, 2), keepdims=True)

    def odds(axis: int) -> Doubles:
        rate = (ones.sum(axis=axis, keepdims=True) + SMOOTHING * overall) / (
            others.sum(axis=axis, keepdims=True) + SMOOTHING
        )
        return np.asarray(np.log(rate / (1 - rate)))

    main = 1 / (1 + np.exp(-(odds(1) + odds(2) - np.log(overall / (1 - overall)))))
    lift = (ones + SMOOTHING * overall) / (others * main + SMOOTHING * overall)
    paired = np.clip(main * lift, 1e-6, 1 - 1e-6)
    gain = clicked * np.log(paired / main) + (shown - clicked) * np.log((1 - paired) / (1 - main))
    return np.asarray(gain.sum(axis=(1, 2)) / shown.sum(axis=(1, 2)))
