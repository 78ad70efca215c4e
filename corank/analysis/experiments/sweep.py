"""A sweep: the arms of a grid, some seeds each, compared on the validation split; the chosen one is tested once.

Also what every search has: trials that are measured on the validation split, and a folder with the facts that a resumed
search must share, and with the run of the chosen config.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corank.analysis.experiments.arms import BASE, Arm
from corank.analysis.experiments.figures import (
    Figure,
    Objective,
    format_difference,
    mean_figure,
    measure_validation,
    percentile_interval,
    plain_differences,
    values_by_quota,
)
from corank.analysis.experiments.space import GridArms
from corank.analysis.experiments.trials import (
    TrialData,
    TrialFiles,
    TrialProgress,
    count_parameters,
    train_trial,
)
from corank.core.errors import ConfigError, DataError
from corank.core.files import write_text
from corank.core.formatting import format_metric
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.predict import predict_split
from corank.training.callbacks import Callback, TrainingEvaluation
from corank.training.config.config import Config, plan_packed
from corank.training.config.config_file import flatten, plain
from corank.training.run import Run
from corank.training.train import MidEpochChecks, train_run

FORMAT = "search-1"
CHECKS = 4
"""Validations of a training, at least, by which it may be ended early."""
QUOTAS = 12
"""Points of a quota curve, about."""

Stop = Callable[[int, float], bool]
"""Takes the number of a check, from 1, and the interim merit; returns whether the training is to end."""


@dataclass(frozen=True)
class SearchTrial:
    """One training of a config, or as far as it went."""

    diverged: str | None
    pruned: bool
    """Whether it was ended early."""
    interim: list[float]
    """The merit at each check."""
    steps: int
    parameters: dict[str, int]
    seconds: float
    figures: dict[str, Figure]
    """Of the validation split; empty if the training was ended early or diverged."""
    quotas: dict[str, list[Any]] = field(default_factory=dict)
    """`m` and `values`: the objective by the first stage's quota; empty if it was not asked for."""


class PrunedError(Exception):
    """Ends a training that is not promising; no error of the user."""


class _Pruning(Callback):
    """Computes the merit at each check, and ends the training if `stop` says so."""

    def __init__(self, objective: Objective, stop: Stop, epochs: int) -> None:
        self.objective, self.stop, self.epochs = objective, stop, epochs
        self.interim: list[float] = []

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Check the figures of an epoch."""
        self.check(event.epoch, event.learnt)

    def check(self, epochs: float, figures: dict[str, float | None]) -> None:
        """Check figures. Raises PrunedError."""
        merit = self.objective.interim_merit(figures)
        if merit is not None:
            self.interim.append(merit)
            # the last check is reported, too, though there is nothing left to save
            if self.stop(len(self.interim), merit) and epochs < self.epochs:
                raise PrunedError


@dataclass(frozen=True)
class SearchTrials:
    """Trains configs, and stores the measurements in a folder."""

    folder: Path
    data: TrialData
    objective: Objective
    by_quota: bool = False
    """Whether the objective is also measured by the first stage's quota."""

    def load(self, config: Config) -> SearchTrial | None:
        """The stored trial of a config; None if there is none, it is damaged, or it lacks what is asked for."""
        document = self._files(config).load(config)
        try:
            trial = None if document is None else _trial(document)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if trial is None or trial.diverged is not None or trial.pruned:
            return trial
        lacks = self.objective.name not in trial.figures or (self.by_quota and not trial.quotas)
        return None if lacks else trial

    def run(self, config: Config, stop: Stop | None = None) -> SearchTrial:
        """Train, measure and store. Raises DataError, CorankError.

        Args:
            config: of the trial.
            stop: receives the merit at each check, a few times in all, and may end the training.
        """
        packed, began = self.data.of(config), time.monotonic()
        epochs = plan_packed(config, packed).train.epochs_of(None)
        pruning = checks = None
        if stop is not None:
            networks = len(config.networks) if config.train.mode == "separate" else 1
            pruning = _Pruning(self.objective, stop, epochs * networks)
            parts = -(-CHECKS // epochs)
            checks = MidEpochChecks(parts, pruning.check) if parts > 1 else None
        measure, callbacks = partial(self._measure, packed), [pruning] if pruning else []
        try:
            done = train_trial(config, packed, self.data.base, measure, callbacks, checks)
        except PrunedError:
            trial = SearchTrial(None, True, [], 0, {}, time.monotonic() - began, {})
        else:
            trial = done.measured or SearchTrial(done.diverged, False, [], 0, {}, 0.0, {})
            trial = replace(trial, seconds=done.seconds)
        trial = replace(trial, interim=pruning.interim if pruning else [])
        self._files(config).save(config, asdict(trial))
        return trial

    def _measure(self, packed: PackedDataset, run: Run) -> SearchTrial:
        model, calibrators = run.model(packed)
        rows = predict_split(model, packed, "valid")
        figures = measure_validation(rows, run.config, calibrators, self.objective.name)
        self.objective.require_requests(figures)
        quotas: dict[str, list[Any]] = {}
        if self.by_quota:
            grid = quota_range(run.config, int(rows.requests.size.max()))
            values = values_by_quota(rows, run.config, calibrators, self.objective, grid)
            quotas = {"m": grid, "values": values}
        steps = run.trained(packed).facts["step"]
        return SearchTrial(None, False, [], steps, count_parameters(model), 0.0, figures, quotas)

    def _files(self, config: Config) -> TrialFiles:
        return TrialFiles(self.folder, self.data.of(config), FORMAT)


def quota_range(config: Config, largest: int) -> list[int]:
    """Quotas of the first stage, from what the next keeps to the largest request, its own among them."""
    first, second = config.stages[0], config.stages[1]
    even = np.geomspace(second.keep, max(second.keep, largest), QUOTAS).round().astype(int)
    return sorted({*(int(quota) for quota in even), max(second.keep, min(first.keep, largest))})


def _trial(document: dict[str, Any]) -> SearchTrial:
    document["figures"] = {name: Figure(**figure) for name, figure in document["figures"].items()}
    return SearchTrial(**document)


FACTS = "search.json"


def begin_search(out: Path, facts: Mapping[str, Any]) -> None:
    """Write what a folder searches, or check that it is the same.

    Args:
        out: the folder.
        facts: plain values of all that trials depend on, such as the config and the space.

    Raises ConfigError if the folder holds another search, CorankError if it cannot be written.
    """
    text = json.dumps(facts, indent=1, allow_nan=False) + "\n"
    try:
        stored = json.loads((out / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_text(out / FACTS, text)
        return
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{out / FACTS}: damaged ({error}); name another place with --out, or remove the folder"
        ) from None
    here, there = flatten(json.loads(text)), flatten(stored)
    changed = [key for key in {**there, **here} if here.get(key) != there.get(key)]
    if changed:
        lines = [f"{key} is {here.get(key)!r}, there it was {there.get(key)!r}" for key in changed[:3]]
        more = f"; {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{out}: holds a search of something else: {'; '.join(lines)}{more}; name another place with --out, or "
            "remove the folder"
        )


def finish_search(
    out: Path,
    chosen: Config,
    packed: PackedDataset,
    config_file: Path,
    objective: Objective,
    kind: str,
    report: Report,
) -> dict[str, Any]:
    """Train the chosen config once more, into `run/`, and measure it on the test split: the only reading of it.

    Args:
        out: the folder of the search.
        chosen: the config.
        packed: its packed data.
        config_file: the config as written; the chosen one is written next to it, as `NAME.KIND.yaml`.
        objective: of the search.
        kind: `sweep` or `tune`.
        report: receives a line about each step.

    Returns the parts `config_file`, `run` and `test` of a document; `test` is None without a test split.
    Raises DataError, CorankError.
    """
    base = config_file.parent
    named = chosen.model_copy(update={"name": f"{chosen.name}-{kind}", "packed": packed_path(packed, base)})
    named = plan_packed(named, packed)
    best = config_file.with_name(f"{config_file.stem}.{kind}.yaml")
    write_text(best, f"# Chosen by corank {kind}.\n" + yaml.safe_dump(plain(named), sort_keys=False))
    folder = out / "run"
    report(f"training the chosen config: {folder}")
    run, resume = _open_or_create(folder, named, base)
    train_run(run, packed, resume=resume)
    return {"config_file": str(best), "run": str(folder), "test": _test_figures(run, packed, objective)}


def packed_path(packed: PackedDataset, base: Path) -> str:
    """The path of packed data, as the `packed` of a config in the folder `base`."""
    location = packed.location
    return os.path.relpath(location, base) if isinstance(location, Path) else str(location)


def _open_or_create(folder: Path, config: Config, base: Path) -> tuple[Run, bool]:
    """The run of a folder if it is of this config, else a new one; and whether it is to be resumed."""
    if Run.has_begun(folder):
        run = Run.open(folder)
        if run.config == config:
            return run, True
    return Run.create(folder, config, base), False


def _test_figures(run: Run, packed: PackedDataset, objective: Objective) -> dict[str, Any] | None:
    """Figures of the test split, with 95 % intervals over users."""
    if not packed.splits.get("test"):
        return None
    model, calibrators = run.model(packed)
    rows = predict_split(model, packed, "test")
    figures = measure_validation(rows, run.config, calibrators, objective.name)
    return {
        name: percentile_interval(figure.value, np.array(figure.replicates, dtype=np.float64))._asdict()
        | {"n": figure.n}
        for name, figure in figures.items()
    }


Results = Mapping[str, Sequence[SearchTrial]]
"""Name of an arm → its trials by seed."""


def run_sweep(
    config_file: Path,
    grid: GridArms,
    packed: PackedDataset,
    out: Path,
    seeds: int = 3,
    metric: str | None = None,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """Train every arm with every seed, compare them, and return the document of the sweep.

    The folder `out` gets search.json first, trials/ as they end, run/ of the chosen arm, and sweep.json last. Trials
    that it holds already are not trained again.

    Args:
        config_file: the config as written.
        grid: the arms.
        packed: packed data of the config as written.
        out: the folder of the sweep.
        seeds: trainings an arm.
        metric: figure by which an arm is chosen; the last stage's GAUC, or AUC of few users, unless given.
        report: receives a line about each trial.

    Raises ConfigError if the folder holds a sweep of another config, DataError, CorankError.
    """
    if seeds < 1:
        raise ConfigError(f"seeds: must be 1 or more; received {seeds}")
    base = grid.arms[0].config
    require_validation(packed)
    objective = Objective.of(base, metric, packed)
    for arm in grid.arms:
        Objective.of(arm.config, metric)
    objective.require_bucket(packed)
    begin_search(out, {"kind": "sweep", "config": plain(base)})
    trials = SearchTrials(out / "trials", TrialData(packed, config_file.parent, out, report), objective)
    results = _train_arms(grid.arms, trials, seeds, TrialProgress(len(grid.arms) * seeds, report))
    document = {
        "name": base.name,
        **count_rows(packed, "valid"),
        "metric": objective.name,
        "better": objective.metric.better,
        "seeds": seeds,
        **_compare(grid, results, objective),
        "config": plain(base),
    }
    chosen = next(arm for arm in grid.arms if arm.name == document["chosen"])
    own = trials.data.of(chosen.config)
    document |= finish_search(out, chosen.config, own, config_file, objective, "sweep", report)
    write_text(out / "sweep.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def require_validation(packed: PackedDataset) -> None:
    """Raise DataError without validation rows, by which a search chooses."""
    if not packed.splits.get("valid"):
        raise DataError(
            "split 'valid' has no rows; a search chooses by it: see data.split and `corank check`"
        )


def count_rows(packed: PackedDataset, split: str) -> dict[str, Any]:
    """Requests and candidates of a split."""
    shards = packed.splits[split]
    return {
        "split": split,
        "requests": sum(len(shard) for shard in shards),
        "candidates": sum(len(shard.item) for shard in shards),
    }


def _train_arms(
    arms: Sequence[Arm], trials: SearchTrials, seeds: int, progress: TrialProgress
) -> dict[str, list[SearchTrial]]:
    results: dict[str, list[SearchTrial]] = {}
    for arm in arms:
        for seed in range(seeds):
            config = arm.at(1.0, seed)
            stored = trials.load(config)
            trial = stored or trials.run(config)
            results.setdefault(arm.name, []).append(trial)
            progress(
                f"{arm.name}, seed {seed}",
                describe_trial(trial, trials.objective),
                None if stored else trial.seconds,
            )
    return results


def describe_requests(requests: int) -> str:
    """How many requests of validation a verdict rests on, as text."""
    return f"on {requests:,} requests of 'valid'"


def describe_trial(trial: SearchTrial, objective: Objective) -> str:
    """The result of a trial in words."""
    if trial.diverged is not None:
        return "diverged"
    if trial.pruned:
        return f"ended early after {len(trial.interim)} checks"
    return f"{objective.name} {format_metric(trial.figures[objective.name].value)}"


def _compare(grid: GridArms, results: Results, objective: Objective) -> dict[str, Any]:
    """The parts `arms`, `chosen`, `verdict` and `notes`; arms with the best first, those that diverged last."""
    merits = {
        name: sum(objective.merit(t.figures[objective.name].value) for t in trials) / len(trials)
        for name, trials in results.items()
        if all(t.figures for t in trials)
    }
    if not merits:
        raise DataError("every arm diverged; lower train.table.lr or the stages' lr")
    ranked = sorted(merits, key=lambda name: -merits[name])
    chosen = ranked[0]
    arms = {}
    for name in [*ranked, *(name for name in results if name not in merits)]:
        arms[name] = _describe_arm(results[name]) | {
            "changes": grid.changes[name],
            "to_base": _differences(results, name, BASE),
            "to_best": _differences(results, name, chosen),
        }
    notes = [f"“{name}” comes out the same as “{other}”." for name, other in grid.same.items()]
    notes += [
        f"“{name}” trained to exactly the figures of the config as written: its keys have no effect here."
        for name, trials in results.items()
        if name != BASE
        and name in merits
        and [t.figures for t in trials] == [t.figures for t in results[BASE]]
    ]
    return {
        "trials": sum(map(len, results.values())),
        "chosen": chosen,
        "verdict": _verdict(arms[chosen], chosen, objective),
        "notes": notes,
        "arms": arms,
    }


def _describe_arm(trials: Sequence[SearchTrial]) -> dict[str, Any]:
    measured = [trial for trial in trials if trial.figures]
    names = measured[0].figures if measured else {}
    return {
        "figures": {name: mean_figure([t.figures for t in measured], name) for name in names},
        "diverged": [trial.diverged for trial in trials if trial.diverged],
        "parameters": measured[0].parameters if measured else None,
        "steps": measured[0].steps if measured else None,
        "seconds": sum(trial.seconds for trial in trials) / len(trials),
    }


def _differences(results: Results, name: str, other: str) -> dict[str, Any]:
    """Differences of an arm to another, paired by seed and by user; empty if it is the other one."""
    pairs = [
        (a.figures, b.figures)
        for a, b in zip(results[name], results[other], strict=True)
        if a.figures and b.figures
    ]
    return plain_differences(pairs) if pairs and name != other else {}


def _verdict(arm: Mapping[str, Any], chosen: str, objective: Objective) -> str:
    rests = describe_requests(arm["figures"][objective.name]["requests"])
    if chosen == BASE:
        return f"The config as written has the best {objective.name}, {rests}."
    difference = arm["to_base"].get(objective.name)
    if difference is None:
        return f"“{chosen}” is the best, {rests}; the config as written diverged."
    sure = difference["verdict"] != "cannot tell"
    return (
        f"“{chosen}” has the best {objective.name}, {rests}, {format_difference(difference)} beside the config as "
        "written: " + ("beyond chance." if sure else "cannot tell from chance.")
    )
