"""The history of a daily funnel: what was decided in each period, and on which figures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from corank.core.errors import DataError
from corank.core.files import atomic_file
from corank.core.settings import Settings

FILE = "history.json"
Decision = Literal[
    "live", "refused by validation", "refused by the gate", "refused by verification", "skipped", "undone"
]
LEFT_OUT: Sequence[Decision] = ("skipped", "undone")
"""Decisions on periods whose rows train no model."""
JUDGED = ("live", "candidate", "reference")
"""What a record has figures of runs of."""


class PeriodRecord(Settings):
    """The decision on a period, and its figures."""

    period: str
    begin: int
    """ms UTC."""
    end: int
    decision: Decision
    reasons: list[str] = []
    """Why it was refused: the conditions that do not hold, with their figures."""
    since: int | None = None
    """Where its training rows begin, ms UTC; None of the first, which has all."""
    until: int | None = None
    """Where they end: the next period's begin there. None of a skipped period."""
    rows: dict[str, int] = {}
    """Candidates by split."""
    live: dict[str, float] = {}
    """Figures of the live run on the period's training rows, before any of them was trained on."""
    candidate: dict[str, float] = {}
    """Figures of the candidate on the second half of the holdout."""
    reference: dict[str, float] = {}
    """Figures of the live run there."""
    drift: dict[str, float] = {}
    """PSI of each feature against the live run's training rows."""
    seconds: dict[str, float] = {}
    """Wall time of each step."""
    model: str | None = None
    """The candidate's model version, if it was exported."""
    version: str | None = None
    """The store's version, if it was published."""

    def figures(self) -> Iterator[tuple[str, str, float]]:
        """All its numbers: what they are of, such as `candidate`, their name, and their value."""
        for of in (*JUDGED, "rows", "drift", "seconds"):
            yield from ((of, name, float(value)) for name, value in getattr(self, of).items())


_RECORDS: TypeAdapter[list[PeriodRecord]] = TypeAdapter(list[PeriodRecord])


def find_live(records: Sequence[PeriodRecord]) -> PeriodRecord | None:
    """The record of the live run: the last that went live; None if none did."""
    return next((record for record in reversed(records) if record.decision == "live"), None)


class DailyHistory:
    """The records of all periods, in order, in one file that is replaced whole."""

    def __init__(self, folder: Path) -> None:
        """Read the history of a folder; none yet is empty. Raises DataError if the file is damaged."""
        self.path = folder / FILE
        self.records: list[PeriodRecord] = []
        try:
            self.records = _RECORDS.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            raise DataError(
                f"{self.path}: damaged ({str(error).splitlines()[0]}); restore it from a backup"
            ) from None

    @property
    def live(self) -> PeriodRecord | None:
        """The record of the live run: the last that went live."""
        return find_live(self.records)

    def find(self, period: str) -> PeriodRecord | None:
        """The record of a period."""
        return next((record for record in self.records if record.period == period), None)

    def add(self, record: PeriodRecord) -> None:
        """Keep a record, in the place of an earlier one of its period."""
        others = [entry for entry in self.records if entry.period != record.period]
        self.write(sorted([*others, record], key=lambda entry: entry.begin))

    def remove(self, period: str) -> None:
        """Forget the decision on a period, to try it again.

        Raises DataError if there is none, or if it or a later one went live.
        """
        record = self._require(period)
        later = [one for one in self.records if one.begin > record.begin and one.decision == "live"]
        if record.decision == "live":
            built = f", and {', '.join(entry.period for entry in later)} build on it" if later else ""
            raise DataError(
                f"{self.path}: {period} went live{built}; `--undo {period}` goes back to the period before"
            )
        if later:
            on_it = "" if record.decision in LEFT_OUT else f", and was trained on the rows of {period}, too"
            raise DataError(
                f"{self.path}: {later[0].period} went live since{on_it}; `--undo {later[0].period}` comes first"
            )
        self.write([entry for entry in self.records if entry.period != period])

    def without(self, period: str) -> list[PeriodRecord]:
        """Return the records with a period undone that went live, and without what was decided on later ones.

        Later periods that are left out stay so. A period that was undone before stays as it is. Raises DataError if
        the period did not go live, or none before it did.
        """
        record = self._require(period)
        if record.decision == "undone":
            return self.records
        if record.decision != "live":
            raise DataError(f"{self.path}: {period} did not go live: {record.decision}")
        before = [entry for entry in self.records if entry.begin < record.begin]
        if find_live(before) is None:
            raise DataError(f"{self.path}: no period before {period} is live, to which one could go back")
        undone = record.model_copy(update={"decision": "undone"})
        after = [entry for entry in self.records if entry.begin > record.begin and entry.decision in LEFT_OUT]
        return [*before, undone, *after]

    def _require(self, period: str) -> PeriodRecord:
        """The record of a period. Raises DataError if there is none."""
        record = self.find(period)
        if record is None:
            known = ", ".join(entry.period for entry in self.records[-5:]) or "none yet"
            raise DataError(f"{self.path}: no period {period}; the last are {known}")
        return record

    def write(self, records: list[PeriodRecord]) -> None:
        """Keep these records in place of all others."""
        with atomic_file(self.path) as partial:
            partial.write_bytes(_RECORDS.dump_json(records, indent=1))
        self.records = records
