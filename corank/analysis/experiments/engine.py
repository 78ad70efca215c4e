"""The engine of experiments: arms × rates × seeds → trials, which are trained, measured, and kept on disk.

A trial is one training of a config, in a temporary folder: what a kind of experiment measures of it is kept as a JSON
file, its weights are not. The file is named by a hash of the config, the packed data, what is measured and corank's
version, and is written atomically when the training has ended, so that a kill loses one trial.

The rate of an arm is chosen on the validation split at seed 0; then all seeds are trained at it.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import log
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import TypeAdapter

from corank.analysis.experiments.arms import Arm, identity
from corank.analysis.experiments.figures import KeptFigure, mean_figures, plain_differences, to_rows
from corank.core.errors import ConfigError, DataError, DivergedError
from corank.core.files import write_text
from corank.core.reports import Report
from corank.core.version import corank_version
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.inputs import fingerprint
from corank.data.packed.manifest import packed_settings
from corank.data.packing.pack import pack_log
from corank.models.joint import JointModel
from corank.training.callbacks import Callback, TrainingEvaluation
from corank.training.config.config import Config, plan_packed
from corank.training.run import Run
from corank.training.train import MidEpochChecks, train_run

FORMAT = 4
CHECKS = 4
"""Validations of a training, at least, by which it may be ended early."""

T = TypeVar("T")


def train_trial(
    config: Config,
    packed: PackedDataset,
    base: Path,
    measure: Callable[[Run], T],
    callbacks: Sequence[Callback] = (),
    checks: MidEpochChecks | None = None,
    keep: Path | None = None,
) -> tuple[T | None, str | None, float]:
    """Train a config and measure the finished run.

    Args:
        config: what is trained.
        packed: its packed data.
        base: relative paths of the config begin here.
        measure: takes the finished run.
        callbacks: called as it trains.
        checks: receives validation figures within epochs.
        keep: the folder of the run; unless given it is a temporary one, which is removed.

    Returns what was measured, or None and why it diverged; and the seconds of the training, without what is measured
    afterwards. Raises DataError, CorankError, and what a callback raises.
    """
    began, diverged = time.monotonic(), None
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        run = Run.create(keep or Path(folder) / "run", plan_packed(config, packed), base)
        try:
            train_run(run, packed, callbacks, checks=checks)
        except DivergedError as error:
            diverged = str(error).rpartition("/run: ")[2]
        seconds = time.monotonic() - began
        return None if diverged else measure(run), diverged, seconds


def read_stored(file: Path, kind: type[T]) -> T | None:
    """A value that was stored as JSON; None if there is none, or it is damaged."""
    try:
        return TypeAdapter(kind).validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


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


class TrialProgress:
    """Reports finished trials of a number, and about how long the rest takes."""

    def __init__(self, trials: int, report: Report) -> None:
        self.trials, self.done, self.trained, self.seconds = trials, 0, 0, 0.0
        self.report = report

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


@dataclass(frozen=True)
class Trial:
    """One training of a config, or as far as it went, and its figures."""

    identity: str = ""
    """The name of its file."""
    rate: float = 1.0
    seed: int = 0
    """Of the arm's: another arm may have the same config at others."""
    diverged: str | None = None
    """Why training diverged; there are no figures then."""
    pruned: bool = False
    """Whether it was ended early; there are no figures then."""
    interim: list[float] = field(default_factory=list)
    """The merit at each check of a training that may be ended early."""
    score: float | None = None
    """What rates are chosen by, unless figures say so."""
    steps: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    """Of the training, without what is measured afterwards."""
    figures: dict[str, KeptFigure] = field(default_factory=dict)
    by_quota: dict[int, float | None] = field(default_factory=dict)
    """The objective by the quota of the first stage, if it was asked for."""


class Measurement:
    """What a kind of experiment measures of a run."""

    kind: ClassVar[str]
    """Trials of another kind are not read."""

    @property
    def of_page(self) -> bool:
        """Whether it depends on the page, of which nothing is trained: configs that differ there share a training."""
        return False

    def measure(self, run: Run, config: Config, packed: PackedDataset, trial: Trial) -> Trial:
        """The trial of a finished run, with its figures; the page is that of `config`."""
        raise NotImplementedError

    def suffices(self, trial: Trial) -> bool:
        """Whether a stored trial with figures has all that is asked for."""
        return True

    def score(self, trial: Trial) -> float | None:
        """The validation figure by which rates are chosen, the higher the better; None if it has none."""
        return trial.score

    def interim_merit(self, figures: Mapping[str, float | None]) -> float | None:
        """The merit of a training that has not ended; None if it has none yet."""
        return None

    def describe(self, trial: Trial) -> str:
        """The result of a trial with figures in words."""
        return "measured"


Stop = Callable[[int, float], bool]
"""Takes the number of a check, from 1, and the interim merit; returns whether the training is to end."""


class PrunedError(Exception):
    """Ends a training that is not promising; no error of the user."""


class _Pruning(Callback):
    """Computes the merit at each check, and ends the training if `stop` says so."""

    def __init__(self, measurement: Measurement, stop: Stop, epochs: int) -> None:
        self.measurement, self.stop, self.epochs = measurement, stop, epochs
        self.interim: list[float] = []

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Check the figures of an epoch."""
        self.check(event.epoch, event.learnt)

    def check(self, epochs: float, figures: dict[str, float | None]) -> None:
        """Check figures. Raises PrunedError."""
        merit = self.measurement.interim_merit(figures)
        if merit is not None:
            self.interim.append(merit)
            # the last check is reported, too, though there is nothing left to save
            if self.stop(len(self.interim), merit) and epochs < self.epochs:
                raise PrunedError


@dataclass(frozen=True)
class TrialStore:
    """Trains configs, measures them, and keeps the trials in a folder."""

    folder: Path
    data: TrialData
    measurement: Measurement

    def run(
        self, config: Config, rate: float = 1.0, seed: int = 0, stop: Stop | None = None
    ) -> tuple[Trial, float | None]:
        """The stored trial of a config; without one, train, measure and store.

        Args:
            config: of the trial.
            rate: of the arm's.
            seed: of the arm's.
            stop: receives the merit at each check, a few times in all, and may end the training.

        Returns the trial, and the seconds that it took, or None if it was read from disk. Raises DataError,
        CorankError.
        """
        began, name = time.monotonic(), self._name(config)
        file = self.folder / f"{name}.json"
        stored, suffices = read_stored(file, Trial), self.measurement.suffices
        if stored and stored.identity == name and (not stored.figures or suffices(stored)):
            return replace(stored, rate=rate, seed=seed), None
        train = self._train_once if self.measurement.of_page else self._train
        trial = train(config, Trial(name, rate, seed), stop)
        write_text(file, json.dumps(asdict(trial), allow_nan=False))
        return trial, time.monotonic() - began

    def _train_once(self, config: Config, trial: Trial, stop: Stop | None) -> Trial:
        """The trial by the kept run of a config that differs in the page alone, or by one that is trained and kept."""
        kept = self.folder.with_name("trained") / self._name(config.model_copy(update={"page": None}))
        file, packed = kept / "trial.json", self.data.of(config)
        if (first := read_stored(file, Trial)) is None:
            shutil.rmtree(kept, ignore_errors=True)
            trained = self._train(config, trial, stop, kept / "run")
            if not trained.pruned:
                write_text(file, json.dumps(asdict(trained), allow_nan=False))
            return trained
        same = replace(first, identity=trial.identity, rate=trial.rate, seed=trial.seed, seconds=0.0)
        if first.diverged is not None:
            return same
        return self.measurement.measure(Run.open(kept / "run"), config, packed, same)

    def remove_runs(self) -> None:
        """Remove the runs that were kept for configs that differ in the page alone."""
        shutil.rmtree(self.folder.with_name("trained"), ignore_errors=True)

    def _train(self, config: Config, trial: Trial, stop: Stop | None, keep: Path | None = None) -> Trial:
        packed, began, pruning, checks = self.data.of(config), time.monotonic(), None, None
        if stop is not None:
            epochs = plan_packed(config, packed).train.epochs_of(None)
            networks = len(config.networks) if config.train.mode == "separate" else 1
            pruning = _Pruning(self.measurement, stop, epochs * networks)
            parts = -(-CHECKS // epochs)
            checks = MidEpochChecks(parts, pruning.check) if parts > 1 else None

        def measure(run: Run) -> Trial:
            steps = run.described(packed)[0].facts["step"]
            return self.measurement.measure(run, config, packed, replace(trial, steps=steps))

        callbacks = [pruning] if pruning else []
        try:
            measured, diverged, seconds = train_trial(
                config, packed, self.data.base, measure, callbacks, checks, keep
            )
            ended = replace(measured or trial, diverged=diverged, seconds=seconds)
        except PrunedError:
            ended = replace(trial, pruned=True, seconds=time.monotonic() - began)
        return replace(ended, interim=pruning.interim if pruning else [])

    def _name(self, config: Config) -> str:
        packed, kind = self.data.of(config), self.measurement.kind
        data = [packed.manifest.fingerprint, packed.codes]
        parts = [FORMAT, kind, corank_version(), identity(config), *data]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def describe(self, trial: Trial) -> str:
        """The result of a trial in words."""
        if trial.diverged is not None:
            return "diverged"
        if trial.pruned:
            return f"ended early after {len(trial.interim)} checks"
        return self.measurement.describe(trial)


@dataclass(frozen=True)
class Budget:
    """Trainings of every arm."""

    seeds: int = 3
    rates: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds: must be 1 or more; received {self.seeds}")
        if not self.rates or not all(0 < rate < float("inf") for rate in self.rates):
            raise ConfigError(f"rates: must be factors above 0; received {', '.join(map(str, self.rates))}")
        if len(set(self.rates)) < len(self.rates):
            raise ConfigError(f"rates: each once; received {', '.join(f'{rate:g}' for rate in self.rates)}")

    @property
    def trials(self) -> int:
        """Trainings an arm."""
        return len(self.rates) + self.seeds - 1


@dataclass(frozen=True)
class ArmResult:
    """An arm with all its trials and the rate that was chosen."""

    arm: Arm
    at_rates: list[Trial]
    """Seed 0 at each rate."""
    rate: float | None
    """None if every one of several rates diverged."""
    seeds: list[Trial]

    @property
    def trials(self) -> list[Trial]:
        """All trials, each once: seed 0 of the chosen rate is among those at the rates."""
        return [*self.at_rates, *self.seeds[1:]]

    @property
    def measured(self) -> list[Trial]:
        """The trials of its seeds that have figures; none if it diverged."""
        return [trial for trial in self.seeds if trial.figures]

    @property
    def figures(self) -> list[Mapping[str, KeptFigure]]:
        """The figures of its seeds."""
        return [trial.figures for trial in self.measured]

    @property
    def config(self) -> Config:
        """The arm's config at the chosen rate and its own seed."""
        return self.arm.config if self.rate in (None, 1.0) else self.arm.at(self.rate or 1.0, 0)

    def minus(self, other: "ArmResult") -> dict[str, Any]:
        """Differences to another arm as JSON values, paired by seed and by user; empty if there is none."""
        pairs = [(a.figures, b.figures) for a, b in zip(self.seeds, other.seeds, strict=False)]
        pairs = [(one, two) for one, two in pairs if one and two]
        return plain_differences(pairs) if pairs else {}

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The means of its figures over the seeds; of several rates also the figures at each, with the first seed."""
        rows = to_rows(self.arm.name, split, *self.means)
        for trial in self.at_rates if len(self.at_rates) > 1 else ():
            values = {name: {"value": figure.value} for name, figure in trial.figures.items()}
            rows += to_rows(self.arm.name, split, trial.figures, values, rate=trial.rate)
        return rows

    @property
    def means(self) -> tuple[Mapping[str, KeptFigure], dict[str, dict[str, Any]]]:
        """The figures of the first seed, and the means over all, as JSON values."""
        return (self.figures[0] if self.figures else {}), mean_figures(self.figures)

    def rows_beside(self, split: str, other: "ArmResult") -> list[dict[str, Any]]:
        """The differences to another arm; none if it is the same config."""
        same = other.arm.identity == self.arm.identity
        return to_rows(
            self.arm.name, split, self.means[0], {} if same else self.minus(other), base=other.arm.name
        )

    def describe(self) -> dict[str, Any]:
        """What was chosen, and the costs of the arm, as JSON values."""
        first = self.measured[0] if self.measured else None
        return {
            "rate": self.rate,
            "diverged": [trial.diverged for trial in self.trials if trial.diverged],
            "parameters": first and first.parameters,
            "steps": first and first.steps,
            "seconds": sum(trial.seconds for trial in self.trials) / len(self.trials),
        }


def stack_rows(results: Sequence[ArmResult], split: str, bases: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """The table of arms: their figures, then their differences to each of some."""
    rows = [row for one in results for row in one.rows(split)]
    return rows + [row for base in bases for one in results for row in one.rows_beside(split, base)]


def train_arm(arm: Arm, store: TrialStore, budget: Budget, progress: TrialProgress) -> ArmResult:
    """Train an arm at every rate with seed 0, and with the other seeds at the rate that is best on validation.

    Of one rate there is nothing to choose: all seeds are trained at it. Trials that the store holds are not trained
    again. Raises DataError, CorankError.
    """

    def trial(rate: float, seed: int) -> Trial:
        done, seconds = store.run(arm.at(rate, seed), rate, seed)
        at = "" if budget.rates == (1.0,) else f", rate × {rate:.3g}"
        progress(f"{arm.name}{at}, seed {seed}", store.describe(done), seconds)
        return done

    score = store.measurement.score
    at_rates = [trial(rate, 0) for rate in budget.rates]
    known = [one for one in at_rates if one.figures and score(one) is not None]
    fallback = at_rates[0] if len(at_rates) == 1 else None
    chosen = max(known, key=lambda one: (score(one), -abs(log(one.rate))), default=fallback)
    if chosen is None:
        return ArmResult(arm, at_rates, None, [])
    seeds = [chosen, *(trial(chosen.rate, seed) for seed in range(1, budget.seeds))]
    return ArmResult(arm, at_rates, chosen.rate, seeds)
