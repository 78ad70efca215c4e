"""How an imported log is split by time, and how long its config trains: by the number of requests."""

from datetime import date, datetime, timedelta

import polars as pl

from corank.core.errors import DataError

VALID, TEST = 0.1, 0.1
"""Shares of the requests for validation and for the test where the days are few, the last ones."""
MOST_OF_TWO_DAYS = 0.35
"""Of all requests: where the last two days hold more, they are not split by days."""
STEPS = 600
"""Optimiser steps that a config plans at least; early stopping on the validation split may end it before."""
MOST_EPOCHS = 20
SMALLEST = 16
"""Requests a batch, at least."""


def split_times(times: pl.Series, source: object) -> tuple[datetime | date, datetime | date]:
    """Choose when validation and test begin: two midnights if the log has the days, else moments by share.

    Args:
        times: of the requests, without a time zone: (R,).
        source: the log, for the message.

    Raises:
        DataError: the times are too few to split.
    """
    last = times.max()
    assert isinstance(last, datetime)
    valid, test = last.date() - timedelta(days=1), last.date()
    if (times.dt.date() >= valid).sum() <= MOST_OF_TWO_DAYS * len(times):
        return valid, test
    ordered = times.sort()
    first, second = (ordered[int(len(ordered) * share)] for share in (1 - VALID - TEST, 1 - TEST))
    if not ordered[0] < first < second:
        raise DataError(
            f"{source}: its {len(times):,} impressions have {times.n_unique():,} times; "
            "too few to split them into training, validation and test"
        )
    return first, second


def plan_training(requests: int, largest: int = 256) -> str:
    """Write the keys of `train` for a number of training requests: size of batches, epochs, and when to stop.

    Batches are of about a two-hundredth of the requests; epochs are as many as make STEPS steps.

    Args:
        requests: how many.
        largest: requests a batch, at most.
    """
    batch = max(SMALLEST, min(largest, 1 << max(0, (requests // 200).bit_length() - 1)))
    epochs = max(2, min(MOST_EPOCHS, -(-STEPS * batch // max(1, requests))))
    return f"epochs: {epochs}, requests: {batch}, average: 0.99, early_stop: {{metric: rank.click.auc, patience: 2}}"
