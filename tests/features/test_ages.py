"""Times and ages."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from corank.core.errors import DataError
from corank.core.time import NEVER
from corank.features.kinds.age import AgeFeature, TimeFeature
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PointInTime, PriorSnapshots
from corank.features.schema import Schema

HOUR, DAY = 3_600_000, 86_400_000
BORN = TimeFeature(kind="time", side="item")
EXACT = AgeFeature(kind="age", of="born")
STEPWISE = AgeFeature(kind="age", of="born", every=timedelta(hours=1))
MOMENT = datetime(2026, 4, 29, 12, tzinfo=UTC)
MS = int(MOMENT.timestamp() * 1000)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([MS, None]), MS),
        (pl.Series([MOMENT.replace(tzinfo=None), None]), MS),
        (pl.Series([MOMENT, None]).dt.convert_time_zone("Asia/Shanghai"), MS),
        (pl.Series([date(2026, 4, 29), None]), MS - 12 * HOUR),
        (pl.Series(["2026-04-29T12:00:00", None]), MS),
        (pl.Series(["2026-04-29T20:00:00+08:00", None]), MS),
    ],
)
def test_a_time_is_read_from_every_type_of_column(column: pl.Series, expected: int) -> None:
    assert BORN.numbers(column, "born").tolist()[0] == expected
    assert np.isnan(BORN.numbers(column, "born")[1])
    assert column.dtype == pl.String or BORN.check_column("born", column.dtype) is None


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(DataError, match=r"^feature 'born': expected "):
        BORN.numbers(pl.Series(["soon"]), "born")


def ages(feature: AgeFeature, born: Sequence[float], times: list[int], cut: int | None = None) -> list[float]:
    schema = Schema({"born": BORN, "age": feature})
    rows = OperandRows.alone(
        schema.operand_placements, "item", Operands(len(born), {}, {}, {"born": np.array(born)})
    )
    snapshots = PriorSnapshots({}, "Asia/Shanghai", None if cut is None else {"age": cut})
    values: list[float] = feature.derive(rows, PointInTime("age", np.array(times), snapshots)).tolist()
    return values


def test_an_age_is_the_days_until_the_request() -> None:
    times = [MS, MS + HOUR // 2, MS - 1, MS, NEVER]
    born = [MS - DAY, MS, MS, np.nan, MS]
    # one that is later than the request is new, one that is unknown is missing
    expected = [1, 0.5 / 24, 0, np.nan, np.nan]
    np.testing.assert_array_equal(ages(EXACT, born, times), expected)


def test_by_steps_it_is_that_of_the_last_one() -> None:
    times = [MS, MS + HOUR // 2, MS + HOUR, MS - 1, NEVER]
    born = [MS - DAY, MS - DAY, MS - DAY, MS, MS]
    expected = [1, 1, 1 + 1 / 24, 0, np.nan]
    np.testing.assert_array_equal(ages(STEPWISE, born, times), expected)
    by_day = STEPWISE.model_copy(update={"every": timedelta(days=1)})
    # midnight in Shanghai was 20 hours ago
    assert ages(by_day, [MS - 2 * DAY], [MS]) == pytest.approx([2 - 20 / 24])


def test_that_of_a_bundle_is_as_of_its_cut() -> None:
    np.testing.assert_array_equal(ages(STEPWISE, [MS - DAY, np.nan, MS + 1], [NEVER] * 3, MS), [1, np.nan, 0])
