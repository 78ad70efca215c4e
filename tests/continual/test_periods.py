"""Periods: bounds where clocks change, what is due, and the split of each."""

from datetime import UTC, datetime, timedelta

import pytest

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.core.time import DAY, moment_to_ms
from corank.features.split import RangeSplit
from corank_continual.periods.settings import DailySettings, Period, due_periods

HOUR = timedelta(hours=1)


def instant(moment: object) -> int:
    assert isinstance(moment, datetime)
    return round(moment.timestamp() * 1000)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-07-01", 24), ("2026-10-25", 25)])
def test_days_are_as_long_as_the_clocks_make_them(day: str, hours: int) -> None:
    period = Period.at(moment_to_ms(f"{day}T10:00"), DAY, "Europe/Berlin")
    assert period.name == day and period.end - period.begin == hours * 3_600_000
    assert Period.at(period.end, DAY, "Europe/Berlin").begin == period.end


@pytest.mark.parametrize("day", ["2026-03-29", "2026-07-01", "2026-10-25"])
@pytest.mark.parametrize("length", [HOUR, 6 * HOUR, HOUR / 6])
def test_hours_follow_one_another_and_have_names_of_their_own(day: str, length: timedelta) -> None:
    whole = Period.at(moment_to_ms(f"{day}T10:00"), DAY, "Europe/Berlin")
    names, begin = [], whole.begin
    while begin < whole.end:
        period = Period.at(begin, length, "Europe/Berlin")
        assert period.begin == begin < period.end
        names.append(period.name)
        begin = period.end
    assert begin == whole.end and len(set(names)) == len(names)


def test_minutes_have_names_of_their_own() -> None:
    period = Period.at(moment_to_ms("2026-04-26T12:59:59"), HOUR / 6, "Asia/Shanghai")
    assert (period.name, period.end - period.begin) == ("2026-04-26T2050", 600_000)


@pytest.mark.parametrize("length", ["7m", "25m", "90m", "5h", "2d", "30s"])
def test_a_period_divides_a_day_or_an_hour(length: str) -> None:
    settings = {"config": "c.yaml", "first": "2026-04-25", "gate": ["rank.auc >= 0"], "holdout": "1s"}
    with pytest.raises(ConfigError, match="period: expected 1d, hours that divide a day, or minutes"):
        validate(DailySettings, settings | {"period": length}, "daily.yaml")


def test_a_period_is_due_when_it_is_over_and_its_labels_are_known() -> None:
    first, last = moment_to_ms("2026-04-25T12:00"), moment_to_ms("2026-04-28T01:00")

    def due(now: str, delay: timedelta = timedelta()) -> list[str]:
        return [p.name for p in due_periods(first, last, DAY, "UTC", delay, moment_to_ms(now))]

    assert due("2026-04-25T23:59") == []
    assert due("2026-04-27T00:00") == ["2026-04-25", "2026-04-26"]
    assert due("2026-04-27T00:00", HOUR) == ["2026-04-25"]
    assert due("2026-05-30T00:00") == ["2026-04-25", "2026-04-26", "2026-04-27", "2026-04-28"]
    with pytest.raises(ConfigError, match="the log ends before 2026-04-29"):
        list(due_periods(moment_to_ms("2026-04-29"), last, DAY, "UTC", timedelta()))


def test_a_split_is_one_that_the_config_reads_and_leaves_no_row_out() -> None:
    period = Period.at(moment_to_ms("2026-04-26T12:00"), DAY, "Asia/Shanghai")
    since = period.begin - 7_200_000
    split = RangeSplit.model_validate(period.split(since, 2 * HOUR))
    split.check(instant)
    train, valid, test = split.train, split.valid, split.test
    assert valid is not None and test is not None
    assert train.begin == datetime.fromtimestamp(since / 1000, UTC)
    assert train.end == valid.begin and valid.end == test.begin
    assert isinstance(test.end, datetime) and instant(test.end) == period.end
    assert instant(valid.begin) == period.end - 7_200_000 and instant(test.begin) == period.end - 3_600_000
