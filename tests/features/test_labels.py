from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.features.log_schema import (
    AS_OF,
    LEVEL,
    TIME,
    DataSettings,
    Labels,
    hide_immature,
    label_column,
    read_labels,
)
from corank.features.split import RangeSplit
from tests.support.configs import data_settings

HOUR = 3_600_000
DAY = 24 * HOUR
VALID, LATER = 2 * DAY, 5 * DAY


def data(**labels: dict[str, Any]) -> DataSettings:
    levels = {"level": "level", "levels": ["cut", "kept", "exposed"]}
    return data_settings(**levels, labels={name: {"column": name} | label for name, label in labels.items()})


def frame(level: list[int], **labels: list[int | None]) -> pl.DataFrame:
    columns = {label_column(name): pl.Series(values, dtype=pl.Int8) for name, values in labels.items()}
    return pl.DataFrame({LEVEL: pl.Series(level, dtype=pl.UInt8)} | columns)


def plain(labels: Labels) -> dict[str, list[int]]:
    assert all(values.dtype == np.int8 for values in labels.values())
    return {name: values.tolist() for name, values in labels.items()}


@pytest.mark.parametrize("as_of", [VALID, LATER])
@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6 * DAY), st.integers(0, 2), *[st.sampled_from([0, 1, None])] * 3)),
    st.tuples(*[st.sampled_from([0, 1, 30])] * 3),
)
def test_labels_are_those_of_a_loop(as_of: int, rows: list[Any], hours: tuple[int, int, int]) -> None:
    times, level, pay, order, click = ([row[n] for row in rows] for n in range(5))
    late = [{"matures_after": f"{h}h"} for h in hours]
    settings = data(pay={"given": "order"} | late[0], order={"given": "click"} | late[1], click=late[2])
    log = frame(level, pay=pay, order=order, click=click).with_columns(pl.Series(TIME, times, pl.Int64))
    labels = plain(hide_immature(read_labels(log, settings), log, settings, as_of))
    for n, (time, reached, *values) in enumerate(rows):
        looked = VALID if time < VALID else as_of
        for depth, name in enumerate(("pay", "order", "click")):
            chain, delay = values[depth + 1 :], max(hours[depth:]) * HOUR
            there = reached == 2 and all(value == 1 for value in chain) and values[depth] is not None
            there = there and (not delay or time + delay <= looked)
            assert labels[name][n] == (values[depth] if there else -1)


def test_a_column_says_when_each_row_was_looked_at_and_the_split_when_it_was_trained() -> None:
    times = pl.Series(TIME, [VALID - HOUR, VALID - HOUR, VALID, VALID], pl.Int64)
    looked = pl.Series(AS_OF, [VALID + 2 * HOUR, VALID, None, VALID + 2 * HOUR], pl.Int64)
    rows = frame([2] * 4, click=[1, 1, 0, 0]).with_columns(times, looked)
    plain_split = data(click={"matures_after": "2h"}).model_copy(update={"as_of": "looked"})
    split = RangeSplit.model_validate(
        {"train": "..1970-01-03", "valid": "1970-01-03..", "trained": "1970-01-03T01:00"}
    )
    later = plain_split.model_copy(update={"split": split})
    for chosen, expected in ((plain_split, [-1, -1, -1, 0]), (later, [1, -1, -1, 0])):
        assert plain(hide_immature(read_labels(rows, chosen), rows, chosen, 0))["click"] == expected
