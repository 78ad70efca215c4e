"""The figures of the periods in TensorBoard and in trackers, as the page shows them: a point a period."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path

import msgspec

from corank.core.files import atomic_file
from corank.core.reports import Report
from corank.core.time import NEVER
from corank.training.callbacks import write_event_file
from corank.training.config.config_file import flatten
from corank.training.run_file import TRACKING
from corank.training.tracking.tracker import UNREADABLE, Tracker, read_trackers
from corank_continual.periods.daily_result import is_usual
from corank_continual.periods.gate import Condition
from corank_continual.periods.history import JUDGED, PeriodRecord, find_live
from corank_continual.periods.settings import DailySettings

EVENTS = "events"
"""The folder that TensorBoard reads: a file a period."""
WRITTEN = "periods.json"
"""For each tracker, the end of the last period that it has, ms UTC."""


class DailyTracking:
    """Writes what is decided of the periods, once each: what is missing after a kill is written by the next call."""

    def __init__(self, folder: Path, settings: DailySettings, report: Report) -> None:
        """
        Args:
            folder: of the history.
            settings: name the trackers.
            report: receives a line if a tracker took not all.

        Raises ConfigError, PluginError, MissingExtraError.
        """
        self.folder, self.settings, self.report = folder, settings, report
        self.trackers = read_trackers(settings.track) if settings.track else []

    def write(self, records: Sequence[PeriodRecord]) -> None:
        """Bring TensorBoard's files and the trackers up to the records of all periods."""
        self._write_events(records)
        for tracker in self.trackers:
            self._write_to(tracker, records)

    def _write_events(self, records: Sequence[PeriodRecord]) -> None:
        """Write a file for each record that has none, and remove those of records that were replaced."""
        folder = self.folder / EVENTS
        for left in folder.glob(".*"):  # by a call that was killed
            shutil.rmtree(left, ignore_errors=True)
        wanted = {}
        for step, record in enumerate(records):
            figures = list_figures(record, self.settings.gate)
            text = json.dumps([record.period, step, figures])
            digest = blake2b(text.encode(), digest_size=8).hexdigest()
            # TensorBoard reads files in the order of their names
            wanted[f"events.out.tfevents.{record.begin // 1000:010d}.{digest}"] = (step, record, figures)
        file_names = {path.name for path in folder.glob("events.*")}
        for name in wanted.keys() - file_names:
            step, record, figures = wanted[name]
            write_event_file(folder / name, figures, step, record.begin / 1000)
        for name in file_names - wanted.keys():
            (folder / name).unlink()

    def _write_to(self, tracker: Tracker, records: Sequence[PeriodRecord]) -> None:
        """Write the periods that a tracker does not have; those that validation refused are not decided yet."""
        file, written = self.folder / TRACKING / WRITTEN, dict[str, int]()
        with suppress(*UNREADABLE):
            written = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
        done = written.get(tracker.module, NEVER)
        new = [
            (n, r) for n, r in enumerate(records) if r.end > done and r.decision != "refused by validation"
        ]
        if not new:
            return
        tracker.begin(self.folder, flatten(self.settings.model_dump(mode="json")))
        for step, record in new:
            figures = list_figures(record, self.settings.gate)
            tracker.record(partial(tracker.write_figures, figures, step))
        live = find_live(records)
        if live is not None:
            facts = {"live": live.period, "model_version": str(live.model)}
            tracker.record(partial(tracker.write_facts, facts))
        if tracker.end("finished"):
            self.report(f"{tracker.module}: not all periods were written; the next call tries again")
            return
        with atomic_file(file) as unfinished:
            unfinished.write_bytes(msgspec.json.encode({**written, tracker.module: new[-1][1].end}))


def list_figures(record: PeriodRecord, gate: Sequence[Condition]) -> dict[str, float]:
    """The figures of a period by `PART/NAME`: the gate's and the usual ones, rows, drift, and seconds."""
    named = {condition.figure for condition in gate}
    listed = {
        f"{of}/{name}": value
        for of, name, value in record.figures()
        if of not in JUDGED or name in named or is_usual(name)
    }
    live = {"decision/live": float(record.decision == "live")}
    return live | listed | {"seconds/total": sum(record.seconds.values())}
