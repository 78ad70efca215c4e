"""The history: one record a period, kept in order, and read back equal or refused."""

from pathlib import Path

import pytest

from corank.core.errors import DataError
from corank_continual.periods.history import FILE, DailyHistory, Decision, PeriodRecord


def record(day: int, decision: Decision = "live") -> PeriodRecord:
    return PeriodRecord(period=f"2026-04-{day}", begin=day, end=day + 1, decision=decision)


def test_records_are_kept_in_the_order_of_their_periods_and_read_back(tmp_path: Path) -> None:
    history = DailyHistory(tmp_path)
    for entry in (record(26), record(25), record(27, "refused by the gate")):
        history.add(entry)
    again = DailyHistory(tmp_path)
    assert [entry.period[-2:] for entry in again.records] == ["25", "26", "27"]
    assert again.records == history.records and again.live == record(26)


def test_a_period_has_one_record_and_a_refused_one_may_be_tried_again(tmp_path: Path) -> None:
    history = DailyHistory(tmp_path)
    history.add(record(25, "refused by validation"))
    history.remove("2026-04-25")
    history.add(record(25))
    history.add(record(25))
    assert DailyHistory(tmp_path).records == [record(25)]
    with pytest.raises(DataError, match=r"2026-04-25 went live; `--undo 2026-04-25` goes back"):
        history.remove("2026-04-25")
    history.add(record(26))
    with pytest.raises(
        DataError, match=r"2026-04-25 went live, and 2026-04-26 build on it; `--undo 2026-04-25`"
    ):
        history.remove("2026-04-25")
    with pytest.raises(DataError, match="no period 2026-04-24; the last are 2026-04-25"):
        history.remove("2026-04-24")


def test_a_period_is_undone_with_all_that_was_decided_since(tmp_path: Path) -> None:
    history = DailyHistory(tmp_path)
    for day, decision in enumerate(("live", "refused by the gate", "live", "skipped", "live"), 20):
        history.add(record(day, decision))  # type: ignore[arg-type]
    left = [(entry.period[-2:], entry.decision) for entry in history.without("2026-04-22")]
    assert left == [("20", "live"), ("21", "refused by the gate"), ("22", "undone"), ("23", "skipped")]
    history.write(history.without("2026-04-22"))
    history.add(record(24))
    assert history.without("2026-04-22") == history.records, (
        "it is undone, and the newer one does not build on it"
    )
    for day, reason in {
        20: "no period before 2026-04-20 is live",
        21: "did not go live: refused by the gate",
    }.items():
        with pytest.raises(DataError, match=reason):
            history.without(f"2026-04-{day}")


@pytest.mark.parametrize("content", ["[", "{}", '[{"period": 1}]', '[{"period": "a", "begin": 0, "end": 1}]'])
def test_a_damaged_history_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(DataError, match=r"history\.json: damaged"):
        DailyHistory(tmp_path)
    assert (tmp_path / FILE).read_text() == content
