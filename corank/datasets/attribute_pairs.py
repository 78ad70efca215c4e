"""Pairs of an attribute of the user, or of the request, and one of the item whose clicks neither alone explains.

A network learns such pairs slowly, from products of embeddings. As a prior a pair is one number.

Letters: F folds · U values of the user's attribute · I values of the item's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
import yaml

from corank.core.reports import Report
from corank.core.types import Doubles, Longs
from corank.core.yaml_names import quote
from corank.data.recurrence import BUCKETS
from corank.datasets.clicked_lists import CLICK, ITEM, ClickedLists
from corank.datasets.list_columns import free_name

MOST_PAIRS = 4
"""So many pairs are chosen, at most."""
MOST_VALUES, MOST_CELLS = 200, 4_000
"""Of an attribute, and of a pair."""
SMOOTHING = 20.0
"""Candidates of the rate of all that are added to those of a value."""
PAIR_SMOOTHING = 200.0
"""Candidates of the rate of all that are added to those of a pair, which tells less than a value does: with fewer its
rates of some hundred candidates say more of chance than of the pair."""
FOLDS, TURNS = 10, 8
SURE, LEAST = 3.0, 0.002
"""The gain in standard errors over folds, and as a share of what is to be told, from which on a pair is chosen."""
USER = "@user"
"""The column of a candidate's user."""
SAMPLE = 300_000
"""Candidates that are looked at, about; the last ones."""


@dataclass(frozen=True)
class AttributePair:
    """Two attributes, and what their pair adds."""

    user: str
    item: str
    gain: float
    """Of the log-likelihood of clicks, beyond all attributes alone, as a share of the entropy of clicks."""


@dataclass(frozen=True)
class ListedLog:
    """The training days of a log of lists, with its tables."""

    lists: ClickedLists
    """In the order of time."""
    user: str
    item: str
    """Columns; that of the item is of the table of items."""
    tables: Mapping[str, pl.LazyFrame]
    """Of `user` and `item`, those that there are."""

    def read(self, columns: Mapping[str, Mapping[str, str]]) -> pl.DataFrame:
        """Read the last candidates of known label, a row each: features, USER, ITEM and CLICK.

        Args:
            columns: feature → column, by side: `context`, `user` and `item`.
        """
        logged = {**columns["context"], **({} if "user" in self.tables else columns["user"])}
        length = pl.col(self.lists.candidates).list.len().mean()
        size = self.lists.impressions.select(length).collect().item() or 1
        last = self.lists.tail(int(SAMPLE / size) + 1)
        kept = {name: pl.col(column) for name, column in {**logged, USER: self.user}.items()}
        rows = last.rows(**kept).drop_nulls([ITEM, CLICK]).collect()
        for side, key, of_row in (("user", self.user, USER), ("item", self.item, ITEM)):
            if side in self.tables and columns[side]:
                kind = pl.Int64 if rows.schema[of_row].is_integer() else pl.String
                named = (pl.col(column).alias(name) for name, column in columns[side].items())
                table = self.tables[side].select(pl.col(key).cast(kind).alias(of_row), *named)
                keyed = rows.with_columns(pl.col(of_row).cast(kind))
                rows = keyed.join(table.collect(), of_row, how="left", maintain_order="left")
        return rows


def describe_pairs(features: Mapping[str, str], log: ListedLog, label: str, report: Report) -> dict[str, str]:
    """Describe the rates of pairs as features, in the config's words, and report what each tells.

    Args:
        features: those of columns, with their settings.
        log: the log.
        label: whose rates they are.
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
    for pair in choose_pairs(log.read(columns), users, list(columns["item"]), CLICK, (USER, ITEM)):
        name = free_name(f"{pair.user}_{pair.item}_clicks", {**features, **lines})
        by = ", ".join(map(quote, (pair.user, pair.item)))
        prior = f"kind: prior, by: [{by}], label: {label}, every: 1h, smoothing: auto"
        lines[name] = f"{{{prior}}}"
        # towers learn a term of a range of rates sooner than a weight of the rate, which the ranker reads
        lines[free_name(f"{name}_bucket", {**features, **lines})] = f"{{{prior}, {BUCKETS}}}"
        better = f"tells clicks better than all rates of one, by {pair.gain:.1%} of their entropy"
        report(f"{name}: the rate of {pair.user} × {pair.item} {better}")
    return lines


def choose_pairs(
    rows: pl.DataFrame, users: Sequence[str], items: Sequence[str], label: str, ids: Sequence[str] = ()
) -> list[AttributePair]:
    """Choose the pairs of attributes that tell clicks best, beyond what all attributes tell by themselves.

    What a pair adds is counted on each tenth of the requests by rates of the others. Where a pair tells nothing, that
    is below zero.

    Args:
        rows: a row a candidate of training days, in the order of time: attributes, and `label`, whether it was clicked.
        users: columns of the user or the context.
        items: columns of the item.
        label: column of true and false, or of 0 and 1.
        ids: columns that no pair is made of, which tell clicks by themselves, too.

    Returns:
        At most MOST_PAIRS: the best, then the best that adds most to it, and so on.
    """
    clicked = rows[label].cast(pl.Float64).fill_null(0.0).to_numpy()
    rate = clicked.mean() if len(clicked) else 0.0
    if not 0 < rate < 1:
        return []
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    fold = np.arange(len(rows)) * FOLDS // len(rows)
    codes = {name: _codes(rows[name]) for name in (*users, *items, *ids)}
    paired = {name for name in (*users, *items) if 2 <= rows[name].n_unique() <= MOST_VALUES}
    found: list[AttributePair] = []
    while len(found) < MOST_PAIRS:
        # what is chosen is told by itself from then on, so that no other column of the same items says it again
        told = [*codes.values(), *(_pair(codes[pair.user], codes[pair.item]) for pair in found)]
        alone, gains = _fit_alone(told, clicked), []
        for user, item in product((n for n in users if n in paired), (n for n in items if n in paired)):
            sizes = (FOLDS, int(codes[user].max()) + 1, int(codes[item].max()) + 1)
            if sizes[1] * sizes[2] > MOST_CELLS:
                continue
            cell = np.ravel_multi_index((fold, codes[user], codes[item]), sizes)
            shown, ones, expected = (
                np.bincount(cell, weight, int(np.prod(sizes))).astype(np.float64).reshape(sizes)
                for weight in (None, clicked, alone)
            )
            by_fold = _gain_by_fold(shown, ones, expected, float(rate)) / entropy
            sure = by_fold.mean() >= max(LEAST, SURE * by_fold.std(ddof=1) / np.sqrt(FOLDS))
            gains += [AttributePair(user, item, float(by_fold.mean()))] if sure else []
        if not gains:
            break
        found.append(max(gains, key=lambda pair: pair.gain))
    return found


def _codes(column: pl.Series) -> Longs:
    """Number the values, 0 for a missing one: (N,)."""
    return column.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def _pair(user: Longs, item: Longs) -> Longs:
    """Number the pairs of two attributes' values: (N,)."""
    return user * (int(item.max()) + 1) + item


def _fit_alone(codes: Sequence[Longs], clicked: Doubles) -> Doubles:
    """Fit the probability of a click to all attributes, a logit of each value that add up, in turns: (N,).

    All together, since candidates that production chooses for users have attributes that go with theirs: sums of rates
    would count twice what both tell, and a pair may know the item better than one of its attributes does.

    Args:
        codes: of each attribute: (N,).
        clicked: (N,).
    """
    rate = float(clicked.mean())
    logit = np.full(len(clicked), np.log(rate / (1 - rate)))
    prior = SMOOTHING * rate * (1 - rate)  # a value of few candidates stays near the rate of all
    effects = [np.zeros(int(code.max()) + 1) for code in codes]
    for code, effect in list(zip(codes, effects, strict=True)) * TURNS:
        expected = 1 / (1 + np.exp(-logit))
        missing = np.bincount(code, clicked - expected, len(effect)) - prior * effect
        slope = np.bincount(code, expected * (1 - expected), len(effect)) + prior
        step = np.clip(missing / slope, -1.0, 1.0)
        effect += step
        logit += step[code]
    return np.asarray(1 / (1 + np.exp(-logit)))


def _gain_by_fold(shown: Doubles, clicked: Doubles, expected: Doubles, rate: float) -> Doubles:
    """The gain of log-likelihood a candidate of each fold by rates of the other folds: (F,).

    Args:
        shown: candidates of each pair: (F, U, I).
        clicked: those that were clicked: (F, U, I).
        expected: those that all attributes by themselves expect to be: (F, U, I).
        rate: of all clicks.
    """
    others, ones = expected.sum(axis=0) - expected, clicked.sum(axis=0) - clicked
    lift = (ones + PAIR_SMOOTHING * rate) / (others + PAIR_SMOOTHING * rate)
    alone = np.clip(expected / np.maximum(shown, 1), 1e-6, 1 - 1e-6)
    paired = np.clip(alone * lift, 1e-6, 1 - 1e-6)
    gain = clicked * np.log(paired / alone) + (shown - clicked) * np.log((1 - paired) / (1 - alone))
    return np.asarray(gain.sum(axis=(1, 2)) / shown.sum(axis=(1, 2)))
