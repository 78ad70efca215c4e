"""Trackers: callbacks that write trainings to an experiment tracker, one run of the tracker for each run of corank.

Records are written in a thread of their own: neither a tracker's delays nor its failures stall a training.
"""

import json
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import NonNegativeFloat, PrivateAttr

from corank.core.errors import ConfigError
from corank.core.files import atomic_file
from corank.core.formatting import shorten
from corank.core.lazy import require
from corank.core.registry import Registry, check_class
from corank.core.reports import Report
from corank.core.settings import Settings, validate
from corank.training.callbacks import Callback, TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart
from corank.training.config.config_file import flatten, plain
from corank.training.run_file import TRACKING

ATTEMPTS = 3
"""How often a record is tried while the training runs."""
PAUSE_S = 30.0
"""Seconds between the attempts."""
UNREADABLE = (OSError, ValueError, msgspec.MsgspecError)
"""What reading a kept file raises that is absent or damaged: then nothing is known."""


def say_on_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


class RecordWriter:
    """Writes records one after another, in the order in which they were put, each at a time after the training put it.

    The first failure is reported at once, those that follow only by their number, at the end. A failed record is
    tried again after a pause, so that a server may restart; what is put in the meantime waits.
    """

    def __init__(self, name: str, say: Report = say_on_stderr, pause_s: float = PAUSE_S) -> None:
        """
        Args:
            name: of the tracker, with which lines begin.
            say: takes what there is to say.
            pause_s: seconds between two attempts.
        """
        self.name, self.say, self.pause_s = name, say, pause_s
        self._records: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._has_failed, self._lost = False, 0
        # a daemon: a server that does not answer must not keep the process
        self._thread = threading.Thread(target=self._write_all, name=f"track-{name}", daemon=True)
        self._thread.start()

    def put(self, record: Callable[[], object]) -> None:
        """Take a record: a call that writes it."""
        self._records.put(record)

    def close(self, wait_s: float) -> int:
        """Write what is left, each record tried once. Says what could not be written, and returns how many records.

        Args:
            wait_s: seconds until the rest is abandoned.
        """
        self._closing.set()
        self._records.put(None)
        self._thread.join(wait_s)
        late = 0
        if self._thread.is_alive():
            self._abandoned.set()
            late = max(1, self._records.qsize())
        lost = self._lost + late
        if lost:
            self.say(f"{self.name}: {lost:,} records were not written")
        return lost

    def _write_all(self) -> None:
        while (record := self._records.get()) is not None and not self._abandoned.is_set():
            if not self._write(record):
                self._lost += 1

    def _write(self, record: Callable[[], object]) -> bool:
        """Write one record. Returns whether it is written."""
        for attempt in range(ATTEMPTS):
            if attempt and self._closing.wait(self.pause_s):
                return False
            try:
                record()
                return True
            except Exception as error:  # whatever a tracker's library raises
                self._tell(error)
        return False

    def _tell(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            what = " ".join(str(error).split()) or type(error).__name__
            self.say(f"{self.name}: cannot be written to: {shorten(what, 400)}; going on, and trying again")


State = Literal["finished", "failed", "stopped"]
"""How a training ended; `stopped` by an interrupt."""


class Tracker(Callback, Settings):
    """Writes a training to a tracker. A kind of tracker says how its run is opened, written to and closed.

    All of that is done in a thread of the tracker's own. A failure there is reported once on stderr, and the training
    continues. A resumed training continues its run in the tracker.
    """

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
            require(self.module, type(self).__name__)

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
        known: dict[str, str] = {}
        with suppress(*UNREADABLE):
            known = msgspec.json.decode(file.read_bytes(), type=dict[str, str])
        identity = self.open_run(self._folder.name, self._settings, known)
        self._is_open = True
        if identity == known:
            return
        with atomic_file(file) as partial:
            partial.write_text(json.dumps(dict(identity), indent=1), encoding="utf-8")


def _check(what: str, part: Any) -> None:
    """Raise PluginError unless a part is a class of callbacks whose constructor takes settings."""
    check_class(what, part, Callback)
    check_class(what, part, Settings)


CALLBACKS = Registry[type[Callback]]("callback", "corank.callbacks", "corank.training.tracking", _check)


def read_callbacks(texts: Sequence[str]) -> list[Callback]:
    """Make callbacks from `NAME`, or `NAME,KEY=VALUE,…` with settings.

    Raises ConfigError for a setting, PluginError for a name that is unknown, MissingExtraError.

    Example:
        read_callbacks(["mlflow,experiment=shop"])
    """
    names = [text.partition(",")[0] for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"callback {name}: given {names.count(name)} times; name each callback once")
    return [_read(text) for text in texts]


def read_trackers(names: Sequence[str]) -> list[Tracker]:
    """Make trackers from `NAME` or `NAME,KEY=VALUE,…`, one at least.

    Raises ConfigError for what is no tracker, and as `read_callbacks`.
    """
    callbacks = read_callbacks(names)
    trackers = [callback for callback in callbacks if isinstance(callback, Tracker)]
    if not callbacks or len(trackers) < len(callbacks):
        other = [name for name, callback in zip(names, callbacks, strict=True) if callback not in trackers]
        raise ConfigError(
            f"name trackers, such as mlflow; received {', '.join(other) or 'none'}, which cannot add to a run"
        )
    return trackers


def _read(text: str) -> Callback:
    name, *pairs = text.split(",")
    made = CALLBACKS.find(name)
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"callback {name}: expected KEY=VALUE after each comma; received {pair!r}")
        settings[key] = value
    return validate(made, settings, f"callback {name}")  # type: ignore[type-var]
