"""The history: one record a period, kept in order, and read back equal or refused."""

from pathlib import Path

import pytest

from corank.core.errors import DataError
from corank_continual.periods.history import FILE, DailyHistory, Decision, PeriodRecord


def record(day: int, decision: Decision = "live") -> PeriodRecord:
    return PeriodRecord(period=f"2026-04-{day}", begin=day, end=day + 1, decision=decision)


@pytest.mark.parametrize("content", ["[", "{}", '[{"period": 1}]', '[{"period": "a", "begin": 0, "end": 1}]'])
def test_a_damaged_history_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(DataError, match=r"history\.json: damaged"):
        DailyHistory(tmp_path)
    assert (tmp_path / FILE).read_text() == content
