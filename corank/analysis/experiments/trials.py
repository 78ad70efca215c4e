"""Trials: trainings of arms in temporary folders, their packed data, what is stored of them, and their progress.

A trial is a JSON file, named by a hash of its config, its packed data and corank's version. It is written atomically
when its training has ended, so that a kill loses one trial. Weights are not kept.

Also the comparison of a run with the cascade that needs no joint training: stages of clicks alone, boosted trees last.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from corank.analysis.comparison import Margins, MeasuredRun, compare_measured
from corank.analysis.experiments.arms import identity
from corank.core.errors import ConfigError, DataError, DivergedError
from corank.core.files import write_text
from corank.core.reports import Progress, Report
from corank.core.version import corank_version
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import fingerprint, packed_settings
from corank.data.packing.pack import pack_log
from corank.models.joint import JointModel
from corank.training.callbacks import Callback
from corank.training.config.config import Config, plan_packed
from corank.training.config.config_file import from_plain, plain
from corank.training.run import Run
from corank.training.train import MidEpochChecks, train_run

T = TypeVar("T")


@dataclass(frozen=True)
class Trained(Generic[T]):
    """A training that has ended: what was measured of it, or why it diverged."""

    measured: T | None
    diverged: str | None
    seconds: float
    """Of the training, without what is measured afterwards."""


def train_trial(
    config: Config,
    packed: PackedDataset,
    base: Path,
    measure: Callable[[Run], T],
    callbacks: Sequence[Callback] = (),
    checks: MidEpochChecks | None = None,
) -> Trained[T]:
    """Train a config and measure the finished run, whose folder is removed then.

    Args:
        config: what is trained.
        packed: its packed data.
        base: relative paths of the config begin here.
        measure: takes the finished run.
        callbacks: called as it trains.
        checks: receives validation figures within epochs.

    Raises DataError, CorankError, and what a callback raises.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        run = Run.create(Path(folder) / "run", plan_packed(config, packed), base)
        try:
            train_run(run, packed, callbacks, checks=checks)
        except DivergedError as error:
            why = str(error).rpartition("/run: ")[2]
            return Trained(None, why, time.monotonic() - began)
        seconds = time.monotonic() - began
        return Trained(measure(run), None, seconds)


def count_parameters(model: JointModel) -> dict[str, int]:
    """Number of weights of the tables and of each network."""
    parts = {"tables": [model.tables, model.projections]} | {n: [part] for n, part in model.networks.items()}
    return {
        name: sum(p.numel() for module in modules for p in module.parameters())
        for name, modules in parts.items()
    }


@dataclass(frozen=True)
class TrialData:
    """Opens the packed data of arms, and packs those that there are none of."""

    packed: PackedDataset
    """Of the config as written."""
    base: Path
    """Relative paths of configs begin here."""
    folder: Path
    """The folder of other packings."""
    report: Report = lambda line: None
    _opened: dict[str, PackedDataset] = field(default_factory=dict)

    def of(self, config: Config) -> PackedDataset:
        """The packed data of a config. Raises DataError."""
        ours, theirs = (packed_settings(f) for f in (config.declared.features, self.packed.manifest.features))
        if ours == theirs and config.data == self.packed.data:
            return self.packed.with_features(config.declared)
        expected = fingerprint(config.data, config.declared, self.base)
        if expected not in self._opened:
            self._opened[expected] = self._open(config, expected)
        return self._opened[expected].with_features(config.declared)

    def _open(self, config: Config, expected: str) -> PackedDataset:
        folder = self.folder / "packed" / expected[:12]
        try:
            return PackedDataset.open(folder, expect=expected)
        except DataError:
            self.report(f"packing other features: {folder}")
            return pack_log(config.data, config.declared, self.base, folder, self.report)


@dataclass(frozen=True)
class TrialFiles:
    """The trials of one packed dataset, of one format."""

    folder: Path
    packed: PackedDataset
    kind: str | int
    """Format of what a trial holds; trials of another are not read."""

    def load(self, config: Config) -> dict[str, Any] | None:
        """The stored values of a config's trial; None if there are none, or they are damaged or of another config."""
        try:
            document = json.loads(self._path(config).read_text(encoding="utf-8"))
            return document if document.pop("identity") == self._identity(config) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, config: Config, values: dict[str, Any]) -> None:
        """Write the values of a config's trial. Raises CorankError."""
        document = {"identity": self._identity(config)} | values
        write_text(self._path(config), json.dumps(document, allow_nan=False))

    def _identity(self, config: Config) -> str:
        packed = self.packed
        parts = [self.kind, corank_version(), identity(config), packed.manifest.fingerprint, packed.codes]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def _path(self, config: Config) -> Path:
        return self.folder / f"{self._identity(config)}.json"


class TrialProgress:
    """Reports finished trials of a number, and about how long the rest takes."""

    def __init__(self, trials: int, report: Report, progress: Progress = lambda done, total: None) -> None:
        """`progress` receives how many trials are finished, and of how many."""
        self.trials, self.done, self.trained, self.seconds = trials, 0, 0, 0.0
        self.report, self.progress = report, progress

    def __call__(self, name: str, result: str, seconds: float | None) -> None:
        """Report a trial that took so many seconds, or None if it was read from disk."""
        self.done += 1
        said = f"trial {self.done}/{self.trials}  {name}: {result}"
        if seconds is None:
            said += ", read from disk"
        else:
            self.trained, self.seconds = self.trained + 1, self.seconds + seconds
            left = (self.trials - self.done) * self.seconds / self.trained
            said += f", {seconds:.1f} s, about {left:,.0f} s left"
        self.report(said)
        self.progress(self.done, self.trials)


TREES = "trees"
"""The name of this reference in place of a run."""
_ROLE = ("name", "keep", "cuts", "labels", "value")
"""Keys of the last stage that define its purpose, not its model."""
_DROPPED = ("teachers", "tree_teachers", "export")


def compare_with_trees(run: Run, split: str, progress: Progress, margins: Margins) -> dict[str, Any]:
    """Train the reference on the packed data of a run, and compare both on a split.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        progress: receives how many requests are scored, and of how many, of each.
        margins: differences that count.

    Returns the document of `compare_runs`, with TREES as `b`. Raises CheckpointError, DataError, ConfigError, and
    MissingExtraError without LightGBM.
    """
    packed, config = run.packed(), tree_baseline(run)
    ours = MeasuredRun.of(run, split, progress)
    trained = train_trial(
        config,
        packed,
        run.base,
        lambda made: compare_measured(ours, MeasuredRun.of(made, split, progress, packed.location), margins),
    )
    if trained.measured is None:
        raise ConfigError(f"{run.folder}: the reference of trees diverged: {trained.diverged}")
    return {**trained.measured, "b": TREES}


def tree_baseline(run: Run) -> Config:
    """Make the config of a run with boosted trees as its last stage; the others learn from labels, without teachers.

    Raises ConfigError for a run of one stage: nothing would be left to train.
    """
    config = run.config
    before = config.stages[:-1]
    if not before:
        raise ConfigError(f"{run.folder}: it has one stage; `trees` replaces the last of several")
    values = plain(config)
    last = values["stages"].pop()
    values["stages"].append({"model": "trees"} | {key: last[key] for key in _ROLE if key in last})
    values["losses"] = [
        {"kind": "click", "stage": stage.name, "label": label}
        for stage in before
        if not stage.fitted
        for label in stage.labels
    ]
    for name in _DROPPED:
        values.pop(name, None)
    gone = {last["name"], *(teacher.name for teacher in config.teachers)}
    values["train"] = {k: v for k, v in values["train"].items() if k not in gone}
    if config.train.early_stop is not None:
        _, label, metric = config.train.early_stop.metric.rsplit(".", 2)
        stop = before[-1].name, label if label in before[-1].labels else before[-1].main, metric
        values["train"]["early_stop"]["metric"] = ".".join(stop)
    return from_plain(values, f"{run.folder}, with trees", run.base)
