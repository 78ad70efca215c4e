"""Trackers: callbacks that write trainings to an experiment tracker, one run of the tracker for each run of corank."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PrivateAttr

from corank.core.extras import require
from corank.core.files import atomic_file
from corank.core.settings import Settings
from corank.training.callbacks import Callback, TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart
from corank.training.checkpoints.run_file import TRACKING
from corank.training.config_file import flatten, plain
from corank.training.tracking.record_writer import RecordWriter

State = Literal["finished", "failed", "stopped"]
"""How a training ended; `stopped` by an interrupt."""


class Tracker(Callback, Settings):
    """Writes a training to a tracker. A kind of tracker says how its run is opened, written to and closed.

    All of that is done in a thread of the tracker's own. A failure there is reported once on stderr, and the training
    continues. A resumed training continues its run in the tracker.
    """

    extra: ClassVar[str]
    """Of corank, which brings `module`."""
    module: ClassVar[str]
    """The tracker's library."""

    wait_s: NonNegativeFloat = 300
    """Seconds that the end of a training waits for records that are not written yet."""

    _writer: RecordWriter | None = PrivateAttr(None)
    _is_open: bool = PrivateAttr(False)
    _folder: Path = PrivateAttr(Path())
    _settings: Mapping[str, Any] = PrivateAttr({})

    def model_post_init(self, context: Any, /) -> None:
        """Raise MissingExtraError if the library is not installed. It is imported later, by the writing thread."""
        if find_spec(self.module) is None:
            require(self.extra, self.module, type(self).__name__)

    @abstractmethod
    def open_run(self, name: str, settings: Mapping[str, Any], known: Mapping[str, str]) -> Mapping[str, str]:
        """Open a run in the tracker.

        Args:
            name: of the folder.
            settings: the hyper-parameters by their path, such as `train.seed`; plain values.
            known: what an earlier process returned for this run, to continue it; empty if there was none.

        Returns what finds the run again.
        """

    @abstractmethod
    def write_figures(self, figures: Mapping[str, float], step: int) -> None:
        """Write figures at an optimiser step. Steps that a resumed training repeats may be there already."""

    @abstractmethod
    def write_facts(self, facts: Mapping[str, str | float]) -> None:
        """Write what holds for the whole run, such as its kept epoch; a fact of the same name is replaced."""

    @abstractmethod
    def write_file(self, path: Path) -> None:
        """Add a file to the run."""

    @abstractmethod
    def close_run(self, state: State) -> None:
        """End the run in the tracker."""

    def begin(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open a run in the tracker, in the background. Then `record` takes what is written to it, until `end`.

        Args:
            folder: what is tracked; it keeps what finds the run again.
            settings: its hyper-parameters by their path, plain values.
        """
        self._folder, self._settings, self._is_open = folder, settings, False
        self._writer = RecordWriter(self.module)
        self.record(lambda: None)

    def record(self, write: Callable[[], object]) -> None:
        """Take a call that writes to the tracker's run. What it raises is reported once on stderr."""

        def write_to_open_run() -> None:
            self._open()
            write()

        assert self._writer is not None, "begin opens the run"
        self._writer.put(write_to_open_run)

    def end(self, state: State) -> int:
        """Close the run in the tracker. Returns how many records could not be written."""
        assert self._writer is not None, "begin opens the run"
        self.record(lambda: self.close_run(state))
        return self._writer.close(self.wait_s)

    def on_start(self, event: TrainingStart) -> None:
        """Open the run in the tracker."""
        self.begin(event.run.folder, flatten(plain(event.run.config)))

    def on_log(self, event: TrainingLog) -> None:
        """Write losses and speed, by the names of `TrainingLog.figures`."""
        self.record(lambda: self.write_figures(event.figures, event.step))

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Write metrics as `valid/STAGE.LABEL.METRIC`, without those that are not defined, and the epoch."""
        figures = {f"valid/{name}": value for name, value in event.metrics.items() if value is not None}
        figures["epoch"] = float(event.epoch)
        self.record(lambda: self.write_figures(figures, event.step))

    def on_end(self, event: TrainingEnd) -> None:
        """Write the kept epoch and its metrics, and close the run in the tracker."""
        if event.epoch is not None:
            facts = {f"kept/{name}": value for name, value in event.metrics.items() if value is not None}
            facts["kept/epoch"] = float(event.epoch)
            self.record(lambda: self.write_facts(facts))
        if event.error is None:
            self.end("finished")
        else:
            self.end("failed" if isinstance(event.error, Exception) else "stopped")

    def _open(self) -> None:
        """Open the tracker's run if it is not open, and keep in the folder what finds it again."""
        if self._is_open:
            return
        # its own: every tracker writes in its own thread
        file = self._folder / TRACKING / f"{self.module}.json"
        known = _read_known(file)
        identity = self.open_run(self._folder.name, self._settings, known)
        self._is_open = True
        if identity == known:
            return
        with atomic_file(file) as partial:
            partial.write_text(json.dumps(dict(identity), indent=1), encoding="utf-8")


def _read_known(file: Path) -> dict[str, str]:
    """What an earlier process kept; a file that is absent or damaged holds nothing."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return {key: value for key, value in document.items() if isinstance(value, str)}
    except (OSError, ValueError, AttributeError):
        return {}
