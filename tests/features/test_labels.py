from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corank.features.log_schema import (
    LEVEL,
    TIME,
    DataSettings,
    Labels,
    find_exposed,
    hide_immature,
    label_column,
    read_labels,
    read_levels,
)

HOUR = 3_600_000
DAY = 24 * HOUR
VALID, LATER = 2 * DAY, 5 * DAY


def data(**labels: dict[str, Any]) -> DataSettings:
    return DataSettings.model_validate(
        {
            "log": "log.parquet",
            "request": ["request"],
            "user": "user",
            "item": "item",
            "time": "time",
            "level": "level",
            "levels": ["cut", "kept", "exposed"],
            "labels": {name: {"column": name} | label for name, label in labels.items()},
            "split": {"valid": "1970-01-03", "test": "1970-01-04"},
        }
    )


def frame(level: list[int], **labels: list[int | None]) -> pl.DataFrame:
    columns = {label_column(name): pl.Series(values, dtype=pl.Int8) for name, values in labels.items()}
    return pl.DataFrame({LEVEL: pl.Series(level, dtype=pl.UInt8)} | columns)


def plain(labels: Labels) -> dict[str, list[int]]:
    assert all(values.dtype == np.int8 for values in labels.values())
    return {name: values.tolist() for name, values in labels.items()}


CHAIN = data(pay={"given": "order"}, order={"given": "click"}, click={})


def test_what_was_not_exposed_has_no_label() -> None:
    rows = frame([0, 1, 2, 2, 2], click=[1, 0, 1, 0, None])
    assert plain(read_labels(rows, data(click={}))) == {"click": [-1, -1, 1, 0, -1]}


def test_a_label_is_known_where_what_it_is_given_happened() -> None:
    rows = frame(
        [2, 2, 2, 2, 2, 0],
        pay=[1, 1, 1, 1, None, 1],
        order=[1, 0, 1, 1, 1, 1],
        click=[1, 1, 0, None, 1, 1],
    )
    assert plain(read_labels(rows, CHAIN)) == {
        "pay": [1, -1, -1, -1, -1, -1],
        "order": [1, 0, -1, -1, 1, -1],
        "click": [1, 1, 0, -1, 1, -1],
    }


def test_a_log_without_levels_is_all_exposed() -> None:
    flat = data(click={}).model_copy(update={"level": None})
    rows = frame([0, 1], click=[1, None]).drop(LEVEL)
    assert plain(read_labels(rows, flat)) == {"click": [1, -1]}
    assert read_levels(rows, flat).tolist() == [2, 2] and read_levels(rows, flat).dtype == np.uint8
    assert find_exposed(rows, flat).tolist() == [True, True]
    assert find_exposed(frame([0, 1, 2]), data(click={})).tolist() == [False, False, True]


TIMES = [0, VALID - DAY, VALID - DAY + 1, VALID - 1, VALID, LATER - DAY, LATER - DAY + 1, LATER]


def aged(as_of: int, times: list[int] = TIMES, **labels: dict[str, Any]) -> dict[str, list[int]]:
    settings = data(**labels)
    rows = pl.DataFrame({TIME: times})
    return plain(hide_immature({n: np.ones(len(times), np.int8) for n in labels}, rows, settings, as_of))


def test_training_rows_are_seen_as_training_began_and_later_ones_as_the_log_was_read() -> None:
    labels = aged(LATER, click={}, order={"matures_after": "1d"})
    assert labels == {"click": [1] * 8, "order": [1, 1, -1, -1, 1, 1, -1, -1]}


def test_a_log_that_was_read_before_training_began_knows_less() -> None:
    labels = aged(DAY, [0, 1, DAY, VALID], order={"matures_after": "1d"}, click={})
    assert labels == {"order": [1, -1, -1, -1], "click": [1, 1, 1, 1]}


def test_a_label_is_no_sooner_mature_than_what_it_is_given() -> None:
    labels = aged(LATER, pay={"given": "order", "matures_after": "1h"}, order={"matures_after": "1d"})
    assert labels["pay"] == labels["order"] == [1, 1, -1, -1, 1, 1, -1, -1]
    slower = aged(LATER, pay={"given": "click", "matures_after": "1d"}, click={"matures_after": "1h"})
    assert slower["click"] == [1, 1, 1, -1, 1, 1, 1, -1] and slower["pay"] == labels["pay"]


def test_what_is_not_known_stays_so_and_a_zero_is_one_too() -> None:
    settings, rows = data(order={"matures_after": "1d"}), pl.DataFrame({TIME: [0, 0, VALID - 1]})
    labels = {"order": np.array([-1, 0, 0], np.int8)}
    assert plain(hide_immature(labels, rows, settings, LATER)) == {"order": [-1, 0, -1]}
    assert labels["order"].tolist() == [-1, 0, 0]


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
