"""A study: questions about joint training, answered for one config by training its arms.

Every arm has the same budget. Its learning rate is chosen by validation clicks at seed 0 among the same factors; then
the same number of seeds is trained at the chosen rate, with the config's epochs and batches.

The page shows each question with its verdict, plot and table.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corank.analysis import plots
from corank.analysis.comparison_page import draw_arms, format_bounds
from corank.analysis.experiments.arms import BASE
from corank.analysis.experiments.engine import (
    ArmResult,
    Budget,
    TrialData,
    TrialProgress,
    TrialStore,
    train_arm,
)
from corank.analysis.experiments.findings import RANKER_FIRST, TestFigures, answer_question, build_findings
from corank.analysis.experiments.question import Question, build_arms
from corank.analysis.experiments.search import count_rows
from corank.analysis.html import Cell, Html, folded, heading, page, plot, section, table, text
from corank.analysis.plots import Series
from corank.core.errors import DataError
from corank.core.files import write_text
from corank.core.formatting import format_metric
from corank.core.reports import Progress, Report
from corank.core.version import corank_version
from corank.data.packed.dataset import PackedDataset
from corank.training.config.config import Config
from corank.training.config.config_file import plain


def run_study(
    config: Config,
    packed: PackedDataset,
    base: Path,
    out: Path,
    questions: Mapping[str, Question],
    budget: Budget,
    report: Report,
    progress: Progress,
) -> dict[str, Any]:
    """Answer questions by training arms, and return the document of the study.

    The folder `out` gets config.json first, trials/ as they end, and study.json last.

    Trials that `out` holds already, of the same config and data, are not trained again. Raises ConfigError unless the
    config has two stages, towers and an MLP, DataError where a split is empty, and CorankError where `out` cannot be
    written.
    """
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
    trials = TrialProgress(len(distinct) * budget.trials + whole, report, progress)
    store = TrialStore(out / "trials", TrialData(packed, base, out, report), TestFigures())
    results, unanswered = dict[str, ArmResult](), dict(arm_sets)
    for arm in distinct:
        final = TestFigures(whole=True) if whole and arm.name == BASE else None
        results[arm.identity] = train_arm(arm, store, budget, trials, final)
        for name in [
            n for n, arms in unanswered.items() if results.keys() >= {arm.identity for arm in arms.arms}
        ]:
            answer = answer_question(config, questions[name], unanswered.pop(name), results)
            report(f"question {name}, {answer['title']}: {' '.join(answer['verdict'])}")
    document = {
        "name": config.name,
        **count_rows(packed, "test"),
        "users": len(np.unique(np.concatenate([shard.user for shard in packed.splits["test"]]))),
        "seeds": budget.seeds,
        "rates": list(budget.rates),
        "trials": sum(len(result.trials) for result in results.values()),
        "config": plain(config),
        **build_findings(config, questions, arm_sets, results),
    }
    write_text(out / "study.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


PLOTTED = 3
"""Panels of a plot of differences."""


def study_page(document: dict[str, Any]) -> Html:
    """The page of a study's document."""
    questions = document["questions"]
    return page(
        f"{document['name']}: a study",
        _lead(document),
        section("How to read it", text(_method(document)), *map(text, document["notes"])),
        *(
            section(f"{n}. {question['title']}", *_question(document, n, question))
            for n, question in questions.items()
        ),
        section("All arms", *_arms(document)),
        section(
            "Config", folded("The config as written", yaml.safe_dump(document["config"], sort_keys=False))
        ),
    )


def _lead(document: dict[str, Any]) -> str:
    return (
        f"Split {document['split']}: {document['requests']:,} requests of {document['users']:,} users, "
        f"{document['candidates']:,} candidates. {document['trials']} trials of {len(document['arms'])} arms, corank "
        f"{corank_version()}."
    )


def _method(document: dict[str, Any]) -> str:
    rates = ", ".join(f"{rate:.3g}" for rate in document["rates"])
    return (
        "An arm is the config with one change. All arms have the same budget: the config's epochs and batches, all "
        f"learning rates times one of {rates}, chosen by validation clicks, then {document['seeds']} seeds. A "
        "difference is an arm minus the config as written, on the same test users, seed by seed. Its 95 % interval "
        "is over users and seeds; it does not include the choice of the rate. Cannot tell: the interval contains 0. "
        "Intervals are not corrected for multiple comparisons: expect one in twenty to mislead."
    )


def _question(document: dict[str, Any], number: str, question: dict[str, Any]) -> list[Html]:
    parts = [text(line) for line in question["verdict"]]
    if question.get("differences"):
        parts += _differences(document, number, question)
    if question.get("correlations"):
        parts += _correlations(document, question)
    if question.get("quota"):
        parts.append(_quota(document, question["quota"]))
    return parts + [text(line) for line in question["notes"]]


def _plotted_metrics(document: dict[str, Any], number: str) -> list[str]:
    """The metrics of a question's plot: the end-to-end metric first."""
    about = {
        "1": ["last_auc", "first_candidates_auc"],
        "6": ["agree_recall", "first_candidates_auc"],
        "7": ["first_auc", "first_candidates_auc"],
        "8": ["last_auc", "first_candidates_auc"],
        "9": ["first_candidates_auc", "last_auc"],
    }.get(number, ["last_auc", "truth_recall"])
    others = [*about, "click_recall", "first_auc", "last_auc"]
    known = [name for name in dict.fromkeys([document["end"], *others]) if name in document["metrics"]]
    return known[:PLOTTED]


def _differences(document: dict[str, Any], number: str, question: dict[str, Any]) -> list[Html]:
    metrics, names = _plotted_metrics(document, number), document["metrics"]
    compared = {arm: figures for arm, figures in question["differences"].items() if figures}
    panels = {
        names[metric]: {
            arm: (figures[metric]["value"], figures[metric]["low"], figures[metric]["high"])
            for arm, figures in compared.items()
            if metric in figures
        }
        for metric in metrics
        if all(metric in figures for figures in compared.values())
    }
    drawn = draw_arms(panels, len(compared))
    rows: list[list[Cell]] = []
    for metric, title in names.items():
        row: list[Cell] = [title]
        row += [_difference(figures.get(metric)) for figures in compared.values()]
        if any(cell != "–" for cell in row[1:]):
            rows.append(row)
    tables = [
        table(["", *list(compared)[n : n + 3]], [[row[0], *row[1 + n : 4 + n]] for row in rows])
        for n in range(0, len(compared), 3)
    ]
    return [drawn, *tables]


def _difference(figure: dict[str, Any] | None) -> Cell:
    if figure is None:
        return "–"
    value = f"{figure['value']:+.4f}"
    return value if figure["low"] is None else (value, format_bounds(figure))


def _correlations(document: dict[str, Any], question: dict[str, Any]) -> list[Html]:
    names, end, points = document["metrics"], document["end"], question["checkpoints"]
    rho = question["correlations"]
    order = partial(
        plots.intervals,
        panels={"Spearman's ρ": {names[name]: (r["value"], r["low"], r["high"]) for name, r in rho.items()}},
    )
    y = np.array(points[end])
    panels = {names[name]: Series(np.array(points[name]), y) for name in rho}
    scatter = partial(plots.scatters, panels=panels, y=names[end], groups=points["arm"])
    return [
        plot(
            order,
            f"How well a figure of one stage, or of its cut, orders checkpoints as {names[end]} does: rank correlation "
            "with a 95 % interval over arms. Every rate and seed of every arm is a checkpoint.",
            height=0.9 + 0.28 * len(rho),
        ),
        plot(
            scatter,
            f"Every checkpoint: {names[end]} against each figure. No slope: the figure does not predict it.",
            height=2.2 * plots.plot_rows(len(rho)) + 0.2 * -(-len(set(points["arm"])) // 3),
        ),
    ]


def _quota(document: dict[str, Any], quota: dict[str, Any]) -> Html:
    m = np.array(quota["m"])
    curves = {
        name.removesuffix("_recall").replace("_", " "): Series(m[known], values[known])
        for name, curve in quota["recalls"].items()
        if (known := ~np.isnan(values := np.array(curve, dtype=np.float64))).any()
    }
    first = document["config"]["stages"][0]["name"]
    size = document["candidates"] / document["requests"]
    random = Series(m[m <= size], m[m <= size] / size)
    cost = Series(m, np.array(quota["cpu_ms"]))
    draw = partial(
        plots.plot_quota_curve, recalls=curves, random=random, cost=cost, keep=quota["keep"], stage=first
    )
    return plot(
        draw,
        f"Left: what is in {first}'s top m, and (joint) what then comes through the cascade. Random order: of the "
        "first cut, for requests of the mean size. Right: CPU time of a whole request through the exported graphs.",
    )


def _arms(document: dict[str, Any]) -> list[Html]:
    names, shown = document["metrics"], [document["end"], "first_auc", "last_auc"]
    metrics = [name for name in dict.fromkeys(shown) if name in names]
    rows: list[list[Cell]] = []
    for arm, result in document["arms"].items():
        if not result["figures"]:
            rows.append([arm, "diverged", "", "", "", *[""] * len(metrics)])
            continue
        row: list[Cell] = [arm, f"× {result['rate']:.3g}", f"{sum(result['parameters'].values()):,}"]
        row += [f"{result['steps']:,}", f"{result['seconds']:.1f}"]
        rows.append(
            row + [format_metric((result["figures"].get(name) or {}).get("value")) for name in metrics]
        )
    header = ["", "rate", "parameters", "steps", "seconds", *(names[name] for name in metrics)]
    return [heading(f"{BASE}: the config itself; {RANKER_FIRST} needs no training"), table(header, rows)]
