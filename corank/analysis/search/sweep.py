"""A sweep: the arms of a grid, some seeds each, compared on the validation split; the chosen one is tested once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corank.analysis.search.grid import GridArms
from corank.analysis.search.objective import Objective
from corank.analysis.search.search_folder import begin_search, finish_search
from corank.analysis.search.search_trials import SearchTrial, SearchTrials
from corank.analysis.trials.arm import BASE, Arm
from corank.analysis.trials.comparisons import format_difference, plain_differences
from corank.analysis.trials.figure import replicates_of
from corank.analysis.trials.significance import mean_over_seeds
from corank.analysis.trials.trial_data import TrialData
from corank.analysis.trials.trial_progress import TrialProgress
from corank.core.errors import ConfigError, DataError
from corank.core.files import write_text
from corank.core.formatting import format_metric
from corank.core.types import Report
from corank.data.dataset import PackedDataset
from corank.training.config_file import plain

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
    if not packed.splits.get("valid"):
        raise DataError(
            "split 'valid' has no rows; a search chooses by it: see data.split and `corank check`"
        )
    objective = Objective.of(base, metric, packed)
    for arm in grid.arms:
        Objective.of(arm.config, metric)
    objective.require_bucket(packed)
    begin_search(out, {"kind": "sweep", "config": plain(base)})
    trials = SearchTrials(out / "trials", TrialData(packed, config_file.parent, out, report), objective)
    results = _train_arms(grid.arms, trials, seeds, TrialProgress(len(grid.arms) * seeds, report))
    document = {
        "name": base.name,
        **count_validation(packed),
        "metric": objective.name,
        "better": objective.metric.better,
        "seeds": seeds,
        **_compare(grid, results, objective),
        "config": plain(base),
    }
    chosen = next(arm for arm in grid.arms if arm.name == document["chosen"])
    final = finish_search(
        out, chosen.config, trials.data.of(chosen.config), config_file, objective, "sweep", report
    )
    document |= final
    write_text(out / "sweep.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def count_validation(packed: PackedDataset) -> dict[str, Any]:
    """Requests and candidates of the validation split."""
    shards = packed.splits["valid"]
    return {
        "split": "valid",
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
    return {
        "figures": {name: _mean(measured, name) for name in (measured[0].figures if measured else {})},
        "diverged": [trial.diverged for trial in trials if trial.diverged],
        "parameters": measured[0].parameters if measured else None,
        "steps": measured[0].steps if measured else None,
        "seconds": sum(trial.seconds for trial in trials) / len(trials),
    }


def _mean(trials: Sequence[SearchTrial], name: str) -> dict[str, Any]:
    having = [trial for trial in trials if name in trial.figures]
    values = [trial.figures[name].value for trial in having]
    mean = mean_over_seeds(values, replicates_of([trial.figures for trial in having], name))
    first = having[0].figures[name]
    return mean._asdict() | {"n": first.n, "requests": first.requests, "seeds": values}


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
