"""Labels of candidates: known only where exposed, where the label they are given happened, and once they are mature.

Rows are those of the log, with the columns of `row_columns`. Letters: C candidates.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.time import MILLISECOND
from corank.core.types import Longs
from corank.features.log_schema import DataSettings
from corank.features.row_columns import LEVEL, TIME, label_column

Labels = dict[str, NDArray[np.int8]]
"""By name 1, 0, or −1 where unknown: (C,)."""


def read_levels(rows: pl.DataFrame, data: DataSettings) -> NDArray[np.uint8]:
    """Read the code of each candidate's level; the deepest if the log has no levels: (C,)."""
    if data.level is None:
        return np.full(len(rows), len(data.levels) - 1, dtype=np.uint8)
    level: NDArray[np.uint8] = rows[LEVEL].to_numpy()
    return level


def find_exposed(rows: pl.DataFrame, data: DataSettings) -> NDArray[np.bool_]:
    """Find the exposed candidates, which are those of the deepest level: (C,)."""
    deepest: NDArray[np.bool_] = read_levels(rows, data) == len(data.levels) - 1
    return deepest


def find_events(
    event: str | None, rows: pl.DataFrame, labels: Labels, data: DataSettings
) -> NDArray[np.bool_]:
    """Find the events of a history: candidates whose label `event` is 1, or all exposed ones if None: (C,)."""
    return find_exposed(rows, data) if event is None else labels[event] == 1


def read_labels(rows: pl.DataFrame, data: DataSettings) -> Labels:
    """Read the labels, however late they became known."""
    shown = find_exposed(rows, data)
    labels: Labels = {}
    for name in data.labels:
        where, condition = shown, data.labels[name].given
        while (
            condition is not None
        ):  # not by a function that calls itself: its closure would keep the rows alive
            where = where & (rows[label_column(condition)] == 1).fill_null(False).to_numpy()
            condition = data.labels[condition].given
        labels[name] = np.where(where, rows[label_column(name)].fill_null(-1).to_numpy(), np.int8(-1))
    return labels


def hide_immature(labels: Labels, rows: pl.DataFrame, data: DataSettings, as_of: int) -> Labels:
    """Hide labels that were not mature when training ended, or when the log was read.

    A row that was younger then than its label takes is unknown, whatever the label says.
    """
    time, end = rows[TIME].to_numpy(), data.training_end()
    return hide_young(labels, time, np.where(time < end, min(end, as_of), as_of), data)


def hide_young(labels: Labels, time: Longs, looked: Longs, data: DataSettings) -> Labels:
    """Hide labels that were not mature when they were looked at: by candidate, its time and when, ms UTC: (C,)."""
    mature_labels: Labels = {}
    for name, label in labels.items():
        delay = data.matures(name) // MILLISECOND
        mature_labels[name] = np.where(time + delay <= looked, label, np.int8(-1)) if delay else label
    return mature_labels
