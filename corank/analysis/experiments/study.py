"""A study: nine questions about joint training, answered for one config by training its arms.

Every arm has the same budget. Its learning rate is chosen by validation clicks at seed 0 among the same factors; then
the same number of seeds is trained at the chosen rate, with the config's epochs and batches.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corank.analysis.experiments.arms import BASE, Arm, ArmSet, build_arms
from corank.analysis.experiments.findings import (
    QUESTIONS,
    ArmResult,
    Trial,
    TrialStore,
    answer_question,
    build_findings,
)
from corank.analysis.experiments.sweep import count_rows
from corank.analysis.experiments.trials import TrialData, TrialProgress
from corank.core.errors import ConfigError, DataError
from corank.core.files import write_text
from corank.core.reports import Progress, Report
from corank.data.packed.dataset import PackedDataset
from corank.training.config.config import Config
from corank.training.config.config_file import plain

RATES = (1 / 3, 1.0, 3.0)


@dataclass(frozen=True)
class Budget:
    """Trainings of every arm."""

    seeds: int = 3
    rates: tuple[float, ...] = RATES

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


def run_study(
    config: Config,
    packed: PackedDataset,
    base: Path,
    out: Path,
    questions: Iterable[int] = QUESTIONS,
    budget: Budget | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Answer questions by training arms, and return the document of the study.

    The folder `out` gets config.json first, trials/ as they end, and study.json last.

    Trials that `out` holds already, of the same config and data, are not trained again. Raises ConfigError unless the
    config has two stages, towers and an MLP, DataError where a split is empty, and CorankError where `out` cannot be
    written.
    """
    budget = budget or Budget()
    numbers = sorted(set(questions))
    if not numbers or not QUESTIONS.keys() >= set(numbers):
        raise ConfigError(f"questions: expected some of 1 to {len(QUESTIONS)}; received {numbers or 'none'}")
    for split in ("train", "valid", "test"):
        if not packed.splits.get(split):
            raise DataError(
                f"split '{split}' has no rows; a study needs all three: see data.split and `corank check`"
            )
    arm_sets = build_arms(config, numbers)
    # fails before anything is trained
    write_text(out / "config.json", json.dumps(plain(config), indent=1) + "\n")
    distinct = list({arm.identity: arm for arms in arm_sets.values() for arm in arms.arms}.values())
    whole = bool({5, 7} & set(numbers))
    trials = TrialProgress(len(distinct) * budget.trials + whole, report, progress)
    data, results = TrialData(packed, base, out, report), dict[str, ArmResult]()
    open_questions = dict(arm_sets)
    for arm in distinct:
        store = TrialStore(out / "trials", data.of(arm.config), base)
        results[arm.identity] = train_arm(arm, store, budget, whole and arm.name == BASE, trials)
        _report_answers(config, open_questions, results, report)
    document = {
        "name": config.name,
        **count_rows(packed, "test"),
        "users": len(np.unique(np.concatenate([shard.user for shard in packed.splits["test"]]))),
        "seeds": budget.seeds,
        "rates": list(budget.rates),
        "trials": sum(len(result.trials) for result in results.values()),
        "config": plain(config),
        **build_findings(config, arm_sets, results),
    }
    write_text(out / "study.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def _report_answers(
    config: Config, questions: dict[int, ArmSet], results: Mapping[str, ArmResult], report: Report
) -> None:
    """Report the answers of questions whose trials are all in, and take these questions away."""
    answered = [n for n, arms in questions.items() if all(arm.identity in results for arm in arms.arms)]
    for number in answered if any(result.arm.name == BASE for result in results.values()) else []:
        answer = answer_question(config, number, questions.pop(number), results)
        report(f"question {number}, {answer['title']}: {' '.join(answer['verdict'])}")


def train_arm(arm: Arm, store: TrialStore, budget: Budget, whole: bool, progress: TrialProgress) -> ArmResult:
    """Train an arm at every rate with seed 0, and with the other seeds at the rate that is best on validation.

    Args:
        arm: the arm.
        store: trials that it holds are not trained again.
        budget: rates and seeds.
        whole: whether the seeds are also measured with the ranker first, and by quota.
        progress: learns of every trial.

    Raises DataError, CorankError.
    """

    def trial(rate: float, seed: int, whole: bool = False) -> Trial:
        config, began = arm.at(rate, seed), time.monotonic()
        stored = store.load(config, whole)
        done = stored or store.run(config, rate, seed, whole)
        result = "diverged" if done.diverged else f"score {done.score or 0:.4f}"
        name = f"{arm.name}, rate × {rate:.3g}, seed {seed}"
        progress(name, result, None if stored else time.monotonic() - began)
        return done

    sweep = [trial(rate, 0) for rate in budget.rates]
    chosen = _choose_rate(sweep)
    if chosen is None:
        return ArmResult(arm, sweep, None, [])
    first = trial(chosen.rate, 0, whole) if whole else chosen
    seeds = [first, *(trial(chosen.rate, seed, whole) for seed in range(1, budget.seeds))]
    return ArmResult(arm, sweep, chosen.rate, seeds)


def _choose_rate(sweep: Sequence[Trial]) -> Trial | None:
    """The trial with the highest score; among equals the one with the rate nearest to 1."""
    known = [trial for trial in sweep if trial.score is not None]
    return max(known, key=lambda trial: (trial.score, -abs(np.log(trial.rate))), default=None)
