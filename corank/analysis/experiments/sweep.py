"""A sweep: arms, some seeds each, compared on the validation split; the chosen one is tested once.

The arms are those of a grid, or those of a user's file, of which each may be trained at several rates.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corank.analysis.experiments.arms import BASE, ArmSet
from corank.analysis.experiments.engine import (
    ArmResult,
    Budget,
    TrialData,
    TrialProgress,
    TrialStore,
    train_arm,
)
from corank.analysis.experiments.figures import Objective, format_difference
from corank.analysis.experiments.search import (
    ValidationFigures,
    begin_search,
    count_rows,
    describe_requests,
    finish_search,
    require_validation,
)
from corank.core.errors import DataError
from corank.core.files import write_text
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.training.config.config_file import plain


def run_sweep(
    config_file: Path,
    arms: ArmSet,
    packed: PackedDataset,
    out: Path,
    budget: Budget,
    metric: str | None = None,
    report: Report = lambda line: None,
    kind: str = "sweep",
) -> dict[str, Any]:
    """Train every arm with every seed, compare them, and return the document of the sweep.

    The folder `out` gets search.json first, trials/ as they end, run/ of the chosen arm, and KIND.json last. Trials
    that it holds already are not trained again.

    Args:
        config_file: the config as written.
        arms: the config as written first.
        packed: packed data of the config as written.
        out: the folder of the sweep.
        budget: trainings an arm.
        metric: figure by which an arm is chosen; the last stage's GAUC, or AUC of few users, unless given.
        report: receives a line about each trial.
        kind: `sweep`, or `experiment` of a file's arms.

    Raises ConfigError if the folder holds a sweep of another config, DataError, CorankError.
    """
    base = arms.arms[0].config
    require_validation(packed)
    objective = Objective.of(base, metric, packed)
    for arm in arms.arms:
        Objective.of(arm.config, metric)
    objective.require_bucket(packed)
    begin_search(out, {"kind": kind, "config": plain(base)})
    data = TrialData(packed, config_file.parent, out, report)
    store = TrialStore(out / "trials", data, ValidationFigures(objective))
    progress = TrialProgress(len(arms.arms) * budget.trials, report)
    results = {arm.name: train_arm(arm, store, budget, progress) for arm in arms.arms}
    document = {
        "name": base.name,
        **count_rows(packed, "valid"),
        "metric": objective.name,
        "better": objective.metric.better,
        "seeds": budget.seeds,
        **_compare(arms, results, objective),
        "config": plain(base),
    }
    chosen = results[document["chosen"]].config
    document |= finish_search(out, chosen, data.of(chosen), config_file, objective, kind, report)
    write_text(out / f"{kind}.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def _compare(arms: ArmSet, results: Mapping[str, ArmResult], objective: Objective) -> dict[str, Any]:
    """The parts `arms`, `chosen`, `verdict` and `notes`; arms with the best first, those that diverged last."""
    merits = {
        name: sum(objective.merit(figures[objective.name].value) for figures in result.figures)
        / len(result.seeds)
        for name, result in results.items()
        if result.figures and len(result.figures) == len(result.seeds)
    }
    if not merits:
        raise DataError("every arm diverged; lower train.table.lr or the stages' lr")
    ranked = sorted(merits, key=lambda name: -merits[name])
    chosen, base = results[ranked[0]], results[BASE]
    described = {}
    for name in [*ranked, *(name for name in results if name not in merits)]:
        result = results[name]
        described[name] = result.describe() | {
            "changes": result.arm.changes,
            "to_base": {} if result is base else result.minus(base),
            "to_best": {} if result is chosen else result.minus(chosen),
        }
        if len(result.sweep) > 1:
            described[name]["rate"] = result.rate
    notes = [
        f"“{name}” trained to exactly the figures of the config as written: its keys have no effect here."
        for name in results
        if name != BASE and name in merits and results[name].figures == base.figures
    ]
    return {
        "trials": sum(len(result.trials) for result in results.values()),
        "chosen": ranked[0],
        "verdict": _verdict(described[ranked[0]], ranked[0], objective),
        "notes": arms.notes + notes,
        "arms": described,
    }


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
