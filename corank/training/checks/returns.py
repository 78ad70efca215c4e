"""How many candidates of `train` are in a history of their user, or would be."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from corank.data.recurrence import measure_recurrence
from corank.data.request_columns import Source
from corank.features.history import History
from corank.features.log_schema import ITEM, TIME, USER, label_column
from corank.features.schema import Schema
from corank.training.checks.log_counts import EXPOSED, SPLIT, SplitRows


@dataclass(frozen=True)
class Returns:
    """Shares of the exposed candidates of `train`, 0 to 1."""

    histories: Mapping[str, float]
    """By history of items that is made of the log, or listed in it: those that are in it."""
    events: Mapping[str, float]
    """`clicked`, `shown`: those that their user clicked, or was shown, before."""

    @classmethod
    def of(cls, rows: SplitRows, schema: Schema, sources: Mapping[str, Source], label: str) -> "Returns":
        """Measure them. `sources` say what is read from the log; `label` is that of a click."""
        train = rows.frame.filter(pl.col(SPLIT) == "train", EXPOSED)
        histories = {n: h for n, h in schema.histories().items() if not h.values and h.table is None}
        made = {name: history for name, history in histories.items() if history.lists is None}
        events = {name: _happened(history.event) for name, history in made.items()}
        own = {"@clicked": _happened(label), "@shown": _happened(None)}
        keys = pl.col(USER), pl.col(ITEM), pl.col(TIME)
        shares = measure_recurrence(train, *keys, events | own, rows.collect)
        held = {n: _held(h) for n, h in histories.items() if h.lists is not None and sources[n] == "log"}
        if held:
            means = rows.collect(train.select(one.mean().alias(n) for n, one in held.items()))
            shares |= means.row(0, named=True)
        return cls({n: shares[n] or 0 for n in (*made, *held)}, {n[1:]: shares[n] for n in own})


def _happened(label: str | None) -> pl.Expr:
    return pl.lit(True) if label is None else pl.col(label_column(label)) == 1


def _held(history: History) -> pl.Expr:
    """Whether a candidate is in the list of its row."""
    assert history.lists is not None
    listed, separator = pl.col(history.lists.column), history.lists.separator
    texts = listed.str.split(separator) if separator else listed.cast(pl.List(pl.String))
    return texts.list.contains(pl.col(ITEM).cast(pl.String)).fill_null(False)
