"""Searches: trials that are measured on the validation split, and a folder of them.

The folder has the facts that a resumed search must share, and in the end the run of the chosen config, which alone is
measured on the test split. An experiment searches the arms of a user's file, of which each may be trained at several
rates.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corank.analysis.experiments import engine
from corank.analysis.experiments.arms import BASE, ArmSet
from corank.analysis.experiments.engine import ArmResult, Trial, TrialData
from corank.analysis.experiments.figures import Objective, format_difference, to_rows
from corank.analysis.run_evaluation import predict_packed, predict_run
from corank.core.errors import ConfigError, DataError
from corank.core.files import write_text
from corank.core.formatting import format_metric
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.rows import to_json
from corank.metrics.cascade import quota_grid
from corank.training.config.config import Config, plan_packed
from corank.training.config.config_file import flatten, plain
from corank.training.run import Run
from corank.training.train import train_run


@dataclass(frozen=True)
class ValidationFigures(engine.Measurement):
    """Measures figures of the validation split, the objective among them."""

    kind = "validation"

    objective: Objective
    by_quota: bool = False
    """Whether the objective is also measured by the first stage's quota."""

    @property
    def of_page(self) -> bool:
        """Whether the objective is a figure of pages."""
        return self.objective.of_page

    def measure(self, run: Run, config: Config, packed: PackedDataset, trial: Trial) -> Trial:
        """The trial with its figures. Raises DataError if the objective rests on too few requests."""
        evaluated = predict_packed(run, packed, "valid")
        figures = self.objective.measure(evaluated, config.page)
        self.objective.require_requests(figures)
        parameters = trial.parameters or engine.count_parameters(run.model(packed)[0])
        trial = replace(trial, parameters=parameters, figures=figures)
        if not self.by_quota:
            return trial
        grid = quota_range(run.config, int(evaluated.predictions.requests.size.max()))
        values = self.objective.by_quota(evaluated, grid)
        return replace(trial, by_quota=dict(zip(grid, values, strict=True)))

    def suffices(self, trial: Trial) -> bool:
        """Whether a trial has the objective."""
        return self.objective.name in trial.figures and (bool(trial.by_quota) or not self.by_quota)

    def score(self, trial: Trial) -> float | None:
        """The merit of the objective."""
        return self.objective.merit(trial.figures[self.objective.name].value)

    def interim_merit(self, figures: Mapping[str, float | None]) -> float | None:
        """The merit of the objective, or of the stages' mean AUC."""
        return self.objective.interim_merit(figures)

    def describe(self, trial: Trial) -> str:
        """The objective."""
        return f"{self.objective.name} {format_metric(trial.figures[self.objective.name].value)}"


def quota_range(config: Config, largest: int) -> list[int]:
    """Quotas of the first stage, from what the next keeps to the largest request, its own among them."""
    return quota_grid(config.stages[0].keep, config.stages[1].keep, largest)


def begin_search(out: Path, facts: Mapping[str, Any]) -> None:
    """Write what a folder searches, or check that it is the same.

    Args:
        out: the folder.
        facts: plain values of all that trials depend on, such as the config and the space.

    Raises ConfigError if the folder holds another search, CorankError if it cannot be written.
    """
    file, text = out / "search.json", json.dumps(facts, indent=1, allow_nan=False) + "\n"
    elsewhere = "name another place with --out, or remove the folder"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_text(file, text)
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: damaged ({error}); {elsewhere}") from None
    here, there = flatten(json.loads(text)), flatten(stored)
    changed = [key for key in {**there, **here} if here.get(key) != there.get(key)]
    if changed:
        lines = [f"{key} is {here.get(key)!r}, there it was {there.get(key)!r}" for key in changed[:3]]
        more = f"; {len(changed) - 3} more" if len(changed) > 3 else ""
        said = "; ".join(lines) + more
        raise ConfigError(f"{out}: holds a search of something else: {said}; {elsewhere}")


def finish_search(
    config_file: Path,
    data: TrialData,
    chosen: Config,
    objective: Objective,
    kind: str,
    rows: list[dict[str, Any]],
    parts: dict[str, Any],
) -> dict[str, Any]:
    """Train the chosen config once more, into `run/`, and measure it on the test split: the only reading of it.

    Args:
        config_file: the config as written; the chosen one is written next to it, as `NAME.KIND.yaml`.
        data: of the search, whose folder gets run/ and KIND.json.
        chosen: the config.
        objective: of the search.
        kind: `experiment` or `tune`.
        rows: the table of what was compared.
        parts: of the document, what is said of it; `chosen` is the name of the config in the rows.

    Returns the document of the search; without a test split it has no rows of it. Raises DataError, CorankError.
    """
    packed, base = data.of(chosen), data.base
    changes = {"name": f"{chosen.name}-{kind}", "packed": packed_path(packed, base)}
    named = plan_packed(chosen.model_copy(update=changes), packed)
    best, folder = config_file.with_name(f"{config_file.stem}.{kind}.yaml"), data.folder / "run"
    write_text(best, f"# Chosen by corank {kind}.\n" + yaml.safe_dump(plain(named), sort_keys=False))
    data.report(f"training the chosen config: {folder}")
    begun = Run.open(folder) if Run.has_begun(folder) else None
    # a run finds its data from where it lies, and the folder may have been moved
    same = begun is not None and begun.config == named and begun.base.resolve() == base.resolve()
    run = begun if begun and same else Run.create(folder, named, base)
    train_run(run, packed, resume=same)
    if packed.splits.get("test"):
        predicted = predict_run(run, "test")
        figures = objective.measure(predicted, run.config.page)
        found = {name: figure.interval()._asdict() for name, figure in figures.items()}
        rows += to_rows(parts["chosen"], "test", figures, found)
    parts = {"better": objective.metric.better, **parts, "config_file": str(best), "run": str(folder)}
    facts = {"kind": kind, "name": chosen.name, **count_rows(data.packed, "valid"), "metric": objective.name}
    document = {"rows": rows, **facts, **parts}
    write_text(data.folder / f"{kind}.json", to_json(document) + "\n")
    return document


def packed_path(packed: PackedDataset, base: Path) -> str:
    """The path of packed data, as the `packed` of a config in the folder `base`."""
    location = packed.location
    return os.path.relpath(location, base) if isinstance(location, Path) else str(location)


def count_rows(packed: PackedDataset, split: str) -> dict[str, Any]:
    """Requests and candidates of a split."""
    shards = packed.splits[split]
    return {
        "split": split,
        "requests": sum(len(shard) for shard in shards),
        "candidates": sum(len(shard.item) for shard in shards),
    }


def run_experiment(
    config_file: Path, arms: ArmSet, data: TrialData, budget: engine.Budget, metric: str | None
) -> dict[str, Any]:
    """Train every arm with every seed, compare them, and return the document of the experiment.

    The folder of `data` gets search.json first, trials/ as they end, run/ of the chosen arm, and experiment.json last.
    Trials that it holds already are not trained again.

    Args:
        config_file: the config as written.
        arms: the config as written first.
        data: packed data of the config as written; its folder is that of the experiment.
        budget: trainings an arm.
        metric: figure by which an arm is chosen; the last stage's GAUC, or AUC of few users, unless given.

    Raises ConfigError if the folder holds an experiment on another config, DataError, CorankError.
    """
    base = arms.arms[0].config
    objective = Objective.of(base, metric, data.packed)
    for arm in arms.arms:
        Objective.of(arm.config, metric)
    begin_search(data.folder, {"kind": "experiment", "config": plain(base)})
    store = engine.TrialStore(data.folder / "trials", data, ValidationFigures(objective))
    progress = engine.TrialProgress(len(arms.arms) * budget.trials, data.report)
    results = {arm.name: engine.train_arm(arm, store, budget, progress) for arm in arms.arms}
    store.remove_runs()
    ranked = _rank(results, objective)
    chosen, base_arm = results[ranked[0]], results[BASE]
    bases = {BASE: base_arm, ranked[0]: chosen}
    rows = engine.stack_rows([results[name] for name in ranked], "valid", [*bases.values()])
    notes = [
        f"“{name}” trained to exactly the figures of the config as written: its keys have no effect here."
        for name, result in results.items()
        if name != BASE and result.figures and result.figures == base_arm.figures
    ]
    parts = {
        **({"title": arms.title} if arms.title else {}),
        "seeds": budget.seeds,
        "trials": sum(len(result.trials) for result in results.values()),
        "chosen": ranked[0],
        "verdict": describe_best(rows, ranked[0], objective.name),
        "notes": arms.notes + notes,
        "arms": {n: results[n].describe() | {"changes": results[n].arm.changes} for n in ranked},
        "config": plain(base),
    }
    return finish_search(config_file, data, chosen.config, objective, "experiment", rows, parts)


def _rank(results: Mapping[str, ArmResult], objective: Objective) -> list[str]:
    """The arms, the best first, those that diverged last. Raises DataError if all did."""
    merits = {
        name: sum(objective.merit(figures[objective.name].value) for figures in result.figures)
        for name, result in results.items()
        if result.figures and len(result.figures) == len(result.seeds)
    }
    if not merits:
        raise DataError("every arm diverged; lower train.table.lr or the stages' lr")
    return sorted(results, key=lambda name: merits.get(name, -np.inf), reverse=True)


def describe_best(rows: Sequence[Mapping[str, Any]], chosen: str, metric: str) -> str:
    """The verdict: what is best, on how many requests, by how much beside the config as written, and how sure."""
    of = {
        row["base"]: row for row in rows if (row["run"], row["name"], row["rate"]) == (chosen, metric, None)
    }
    named = "The config as written" if chosen == BASE else f"“{chosen}”"
    said = f"{named} has the best {metric}, on {of[None]['requests']:,} requests of 'valid'"
    if (difference := of.get(BASE)) is None:
        return f"{said}."
    sure = "cannot tell from chance" if difference["verdict"] == "cannot tell" else "beyond chance"
    return f"{said}, {format_difference(difference)} beside the config as written: {sure}."
