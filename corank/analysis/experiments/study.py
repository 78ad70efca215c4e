"""A study: questions about joint training, answered for one config by training its arms.

Every arm has the same budget. Its learning rate is chosen by validation clicks at seed 0 among the same factors; then
the same number of seeds is trained at the chosen rate, with the config's epochs and batches.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from corank.analysis.experiments.arms import BASE
from corank.analysis.experiments.engine import (
    ArmResult,
    Budget,
    TrialData,
    TrialProgress,
    TrialStore,
    train_arm,
)
from corank.analysis.experiments.findings import TestFigures, answer_question, build_findings
from corank.analysis.experiments.question import Question, build_arms
from corank.analysis.experiments.search import count_rows
from corank.core.errors import DataError
from corank.core.files import write_text
from corank.core.reports import Progress
from corank.training.config.config import Config
from corank.training.config.config_file import plain


def run_study(
    config: Config, data: TrialData, questions: Mapping[str, Question], budget: Budget, progress: Progress
) -> dict[str, Any]:
    """Answer questions by training arms, and return the document of the study.

    The folder of `data` gets config.json first, trials/ as they end, and study.json last. Trials that it holds already,
    of the same config and data, are not trained again.

    Raises ConfigError unless the config has two stages, towers and an MLP, DataError where a split is empty, and
    CorankError where the folder cannot be written.
    """
    packed, out = data.packed, data.folder
    for split in ("train", "valid", "test"):
        if not packed.splits.get(split):
            raise DataError(
                f"split '{split}' has no rows; a study needs all three: see data.split and `corank check`"
            )
    arm_sets = build_arms(config, questions)
    # fails before anything is trained
    write_text(out / "config.json", json.dumps(plain(config), indent=1) + "\n")
    distinct = list({arm.identity: arm for arms in arm_sets.values() for arm in arms.arms}.values())
    whole = any(question.finding in ("quotas", "ranker_first") for question in questions.values())
    trials = TrialProgress(len(distinct) * budget.trials + whole, data.report, progress)
    store = TrialStore(out / "trials", data, TestFigures())
    results, answers = dict[str, ArmResult](), dict[str, Any]()
    for arm in distinct:
        final = TestFigures(whole=True) if whole and arm.name == BASE else None
        results[arm.identity] = train_arm(arm, store, budget, trials, final)
        for name, arms in arm_sets.items():
            if name not in answers and results.keys() >= {arm.identity for arm in arms.arms}:
                answers[name] = answer_question(config, questions[name], arms, results)
                said = " ".join(answers[name]["verdict"])
                data.report(f"question {name}, {answers[name]['title']}: {said}")
    document = {
        "name": config.name,
        **count_rows(packed, "test"),
        "users": len(np.unique(np.concatenate([shard.user for shard in packed.splits["test"]]))),
        "seeds": budget.seeds,
        "rates": list(budget.rates),
        "trials": sum(len(result.trials) for result in results.values()),
        "config": plain(config),
        **build_findings(config, arm_sets, results),
        "questions": {name: answers[name] for name in questions},
    }
    write_text(out / "study.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document
