"""What studies, experiments and tunings show: what was chosen and why, differences, all arms or trials, the test.

The three share the plot and the tables of arms' figures, the test of the chosen config, and the config as written.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from corank.analysis.experiments.arms import BASE, format_value, format_values
from corank.analysis.pivot import Pivot, draw_values, group_by, value_cell
from corank.core.formatting import format_metric
from corank.core.lazy import lazy
from corank.core.version import corank_version
from corank.core.view import Block, Cell, Detail, Folded, Noted, Plot, Section, Table, Verdict, View, bounded
from corank.evaluation.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis import plots, search_plots
else:
    plots, search_plots = lazy("corank.analysis.plots"), lazy("corank.analysis.search_plots")

ACROSS = 3
"""Arms of one table, metrics of a plot, and small plots in a row, at most."""
BEST_TRIALS = 10
"""Trials of the table of the best."""
Document = Mapping[str, Any]
"""Of a study, an experiment or a tuning: `rows` are figures and differences of arms, or trials."""
_DIFFERENCE = partial(value_cell, signed=True)


def _figures(document: Document, split: str | None = None) -> list[Row]:
    """The means of figures on a split, that of the arms unless given."""
    split = split or document["split"]
    return [r for r in document["rows"] if r["split"] == split and r["base"] is None and r["rate"] is None]


def _differences(document: Document, base: str = BASE, arms: Collection[str] | None = None) -> list[Row]:
    """The differences of arms, or of some, to another."""
    rows = (row for row in document["rows"] if row["base"] == base)
    return [row for row in rows if arms is None or row["run"] in arms]


def study_view(document: Document) -> View:
    """The view of a study's document."""
    return View(
        f"{document['name']}: a study",
        f"Split {document['split']}: {document['requests']:,} requests of {document['users']:,} users, "
        f"{document['candidates']:,} candidates. {document['trials']} trials of {len(document['arms'])} arms, seeds an "
        f"arm: {document['seeds']}, corank {corank_version()}.",
        [
            Section("How to read it", [Detail([_study_method(document)]), *document["notes"]]),
            *(question_section(document, number) for number in document["questions"]),
            Section("All arms", [Detail([_study_arms(document)])]),
            _config_section(document),
        ],
    )


def _study_method(document: Document) -> str:
    rates = ", ".join(f"{rate:.3g}" for rate in document["rates"])
    return (
        "An arm is the config with one change. All arms have the same budget: the config's epochs and batches, all "
        f"learning rates times one of {rates}, chosen by validation clicks, then {document['seeds']} seeds. A "
        "difference is an arm minus the config as written, on the same test users, seed by seed. Its 95 % interval "
        "is over users and seeds; it does not include the choice of the rate. Cannot tell: the interval contains 0. "
        "Intervals are not corrected for multiple comparisons: expect one in twenty to mislead."
    )


def question_section(document: Document, number: str) -> Section:
    """The answer to one question of a study's document."""
    question, titles = document["questions"][number], document["metrics"]
    blocks: list[Block] = [*question["verdict"]]
    if rows := _differences(document, arms=question.get("arms", ())):
        shown = _common_names(rows, _metrics_of_question(document, number))
        blocks += _compared(rows, {name: titles[name] for name in shown})
        others = [row for row in rows if row["name"] in titles and row["name"] not in shown]
        blocks.append(Detail(_figure_tables(others, titles, _DIFFERENCE)))
    if question.get("correlations"):
        blocks += _correlations(document, question)
    if question.get("quota"):
        blocks += _quota(document, question["quota"])
    return Section(f"{number}. {question['title']}", [*blocks, *question["notes"]])


def _metrics_of_question(document: Document, number: str) -> list[str]:
    """The metrics that answer a question: the end-to-end metric first."""
    about = {
        "1": ["last_auc", "first_candidates_auc"],
        "6": ["agree_recall", "first_candidates_auc"],
        "7": ["first_auc", "first_candidates_auc"],
        "8": ["last_auc", "first_candidates_auc"],
        "9": ["first_candidates_auc", "last_auc"],
    }.get(number, ["last_auc", "truth_recall"])
    return [document["end"], *about, "click_recall", "first_auc", "last_auc"]


def _common_names(rows: Sequence[Row], wanted: Sequence[str]) -> list[str]:
    """The first wanted names of figures that all arms have."""
    names = [{row["name"] for row in of} for of in group_by(rows, "run").values()]
    return [name for name in dict.fromkeys(wanted) if all(name in some for some in names)][:ACROSS]


def _compared(rows: Sequence[Row], titles: Mapping[str, str]) -> list[Block]:
    """The differences of arms to the config as written by some metrics, drawn and as a table."""
    shown = [row for name in titles for row in rows if row["name"] == name]
    if not shown:
        return []
    caption = (
        "Difference of each arm to the config as written, with 95 % intervals over users and seeds. Right of 0: "
        "higher; grey: cannot tell."
    )
    table = Pivot("run", lambda row: titles[row["name"]], _DIFFERENCE).table(
        shown, heading="arm", prose=("arm",)
    )
    return [draw_values(shown, lambda row: titles[row["name"]], "run", caption, from_zero=True), table]


def _figure_tables(
    rows: Sequence[Row], titles: Mapping[str, str], cell: Callable[[Row], Cell] = value_cell
) -> list[Table]:
    """Tables of a row a metric that some arm has, and a column an arm."""
    arms = [*group_by(rows, "run").values()]
    pivot = Pivot(lambda row: titles.get(row["name"], row["name"]), "run", cell)
    return [
        pivot.table(row for of in arms[n : n + ACROSS] for row in of) for n in range(0, len(arms), ACROSS)
    ]


def _figure_cell(figure: Mapping[str, Any]) -> Cell:
    return bounded(figure["value"], (figure["low"], figure["high"]))


def _correlations(document: Document, question: Mapping[str, Any]) -> list[Block]:
    names, end, points = document["metrics"], document["end"], question["checkpoints"]
    rho = question["correlations"]
    order = {"Spearman's ρ": {names[n]: (one["value"], one["low"], one["high"]) for n, one in rho.items()}}

    def scatter(figure: "Figure") -> None:
        y = np.array(points[end])
        panels = {names[name]: plots.Series(np.array(points[name]), y) for name in rho}
        plots.scatters(figure, panels, names[end], points["arm"])

    return [
        Plot(
            lambda figure: plots.intervals(figure, order),
            f"How well a figure of one stage, or of its cut, orders checkpoints as {names[end]} does: rank correlation "
            "with a 95 % interval over arms. Every rate and seed of every arm is a checkpoint.",
            0.9 + 0.28 * len(rho),
        ),
        Table(
            ["figure", "ρ"],
            [[names[name], _figure_cell(figure)] for name, figure in rho.items()],
            f"rank correlation with {names[end]}, over checkpoints",
        ),
        Plot(
            scatter,
            f"Every checkpoint: {names[end]} against each figure. No slope: the figure does not predict it.",
            2.2 * _plot_rows(rho) + 0.2 * _plot_rows(set(points["arm"])),
        ),
    ]


def _plot_rows(plotted: Mapping[str, Any] | set[str]) -> int:
    return -(-len(plotted) // ACROSS)


def _quota(document: Document, quota: Mapping[str, Any]) -> list[Block]:
    first = document["config"]["stages"][0]["name"]
    recalls = {name.replace("_", " "): curve for name, curve in quota["recalls"].items()}
    points = zip(quota["m"], *recalls.values(), quota["cpu_ms"], strict=True)
    rows = [[str(m), *map(format_metric, values), f"{cost:.2f}"] for m, *values, cost in points]

    def draw(figure: "Figure") -> None:
        m, size = np.array(quota["m"]), document["candidates"] / document["requests"]
        curves = {
            name.removesuffix(" recall"): plots.Series(m[known], values[known])
            for name, curve in recalls.items()
            if (known := ~np.isnan(values := np.array(curve, dtype=np.float64))).any()
        }
        random = plots.Series(m[m <= size], m[m <= size] / size)
        cost = plots.Series(m, np.array(quota["cpu_ms"]))
        plots.plot_quota_curve(figure, curves, random, cost, quota["keep"], first)

    return [
        Plot(
            draw,
            f"Left: what is in {first}'s top m, and (joint) what then comes through the cascade. Random order: of the "
            "first cut, for requests of the mean size. Right: CPU time of a whole request through the exported graphs.",
        ),
        Table(["m", *recalls, "CPU ms"], rows),
    ]


def _study_arms(document: Document) -> Table:
    names, figures = document["metrics"], group_by(_figures(document), "run")
    metrics = [name for name in dict.fromkeys([document["end"], "first_auc", "last_auc"]) if name in names]
    columns = ["", "rate", "parameters", "steps", "seconds", *(names[name] for name in metrics)]
    rows: list[list[str]] = []
    for arm, facts in document["arms"].items():
        known = {row["name"]: row["value"] for row in figures.get(arm, ())}
        described = (
            [
                f"× {facts['rate']:.3g}",
                f"{sum(facts['parameters'].values()):,}",
                f"{facts['steps']:,}",
                f"{facts['seconds']:.1f}",
                *(format_metric(known.get(name)) for name in metrics),
            ]
            if known
            else ["diverged", *[""] * (len(columns) - 2)]
        )
        rows.append([arm, *described])
    return Table(columns, rows, f"{BASE}: the config itself; the ranker as pre-ranker needs no training")


def _config_section(document: Document, *blocks: Block) -> Section:
    folded = Folded("The config as written", yaml.safe_dump(document["config"], sort_keys=False))
    return Section("Space and config" if blocks else "Config", [*blocks, folded])


def experiment_view(document: Document) -> View:
    """The view of an experiment's document."""
    rows, metric = _differences(document), document["metric"]
    others = [row["name"] for row in rows if row["run"] == rows[0]["run"]]
    shown = {name: name for name in _common_names(rows, [metric, *others])} if rows else {}
    blocks = _compared(rows, shown)[:1] or ["There is nothing to compare."]
    return View(
        f"{document['name']}: an experiment",
        f"{_validation(document)}{document['trials']} trials of {len(document['arms'])} arms, seeds an arm: "
        f"{document['seeds']}, corank {corank_version()}.",
        [
            _chosen_section(document, *document["notes"]),
            Section("How to read it", [Detail([_experiment_method(document)])]),
            Section("Beside the config as written", [*blocks, _experiment_arms(document)]),
            Section("All figures", [Detail(_figure_tables(_figures(document), {}))]),
            _test_section(document),
            _config_section(document),
        ],
    )


def _validation(document: Document) -> str:
    return f"Validation split: {document['requests']:,} requests, {document['candidates']:,} candidates. "


def _experiment_method(document: Document) -> str:
    return (
        f"An arm is the config with some changes, trained with {document['seeds']} seeds and compared by "
        f"{document['metric']} of the validation split. A difference is on the same users, seed by seed; its 95 % "
        "interval is over users and seeds. Cannot tell: the interval contains 0. The best of many arms looks better "
        "than it is, since it was chosen by these figures; not so on the test split, which was read once, for the "
        "chosen arm alone."
    )


def _experiment_arms(document: Document) -> Table:
    """The arms by the metric, the best first, with their differences to the config as written and to the best."""

    def of(rows: Sequence[Row]) -> dict[str, Row]:
        return {row["run"]: row for row in rows if row["name"] == document["metric"]}

    values, to_base = of(_figures(document)), of(_differences(document))
    to_best = of(_differences(document, document["chosen"]))
    rows = [
        [
            arm,
            format_metric(values[arm]["value"]) if arm in values else Verdict("diverged", -1),
            *(_DIFFERENCE(rows[arm]) if arm in rows else "–" for rows in (to_base, to_best)),
            f"{facts['seconds']:.1f}",
        ]
        for arm, facts in document["arms"].items()
    ]
    columns = ["arm", document["metric"], "less as written", "less the best", "seconds a training"]
    return Table(columns, rows, prose=("arm",))


def _chosen_section(document: Document, *blocks: Block) -> Section:
    files = f"Its config is {document['config_file']}, its run {document['run']}."
    return Section("What was chosen", [document["verdict"], files, *blocks])


def _test_section(document: Document) -> Section:
    """The test split's figures, of the chosen config alone."""
    rows = _figures(document, "test")
    if not rows:
        return Section("Test", ["The config has no test split."])
    read = (
        f"Read once, at the end, for “{document['chosen']}” alone, with the config's own seed. 95 % intervals are over "
        "users."
    )
    return Section("Test", [read, Pivot("name", beside={"value": value_cell}).table(rows, heading="figure")])


def tune_view(document: Document) -> View:
    """The view of a tuning's document."""
    metric, trials = document["metric"], document["trials"]
    complete = [trial for trial in trials if trial["value"] is not None]
    history = f"{metric} by trial. Trial 1 is the config as written. Grey: ended early, or diverged."
    space = [[name, span] for name, span in document["space"].items()]
    drawn = " of a grid" if document["seed"] is None else f" drawn with seed {document['seed']}"
    return View(
        f"{document['name']}: a tuning",
        f"{_validation(document)}{len(trials)} trials{drawn}, {len(complete)} of them completed, "
        f"corank {corank_version()}.",
        [
            _chosen_section(document, Detail([_tune_caution(metric)])),
            *_frontier(document),
            Section("History", [Plot(lambda figure: search_plots.plot_history(figure, document), history)]),
            *_importance(document),
            *_slices(document, complete),
            Section("The best trials; 1 is the config as written", [_best_trials(document, complete)]),
            Section("All trials", [Detail([_all_trials(document)])]),
            _test_section(document),
            _config_section(document, Detail([Table(["parameter", "range"], space)])),
        ],
    )


def _tune_caution(metric: str) -> str:
    return (
        f"Trials are compared by {metric} of the validation split, one seed each. The best of many looks better than "
        "it is: the test split below was read once, for the best trial alone. Compare a few candidates with several "
        "seeds by corank experiment."
    )


def _frontier(document: Document) -> list[Section]:
    """The funnels that no faster one equals, with the measured latency of each."""
    budget, metric = document["budget"], document["metric"]
    if budget is None or not budget["frontier"]:
        return []
    trials = {trial["number"]: trial for trial in document["trials"]}
    caption = (
        f"The best {metric} within each latency, of all trained funnels at all quotas. Dashed: the budget."
    )
    measured = f"medians of latencies with 95 % intervals, on {budget['machine']}"
    rows = [
        [
            Noted(f"{us['median']:,.0f}", f"{us['low']:,.0f} … {us['high']:,.0f}"),
            Verdict("no", -1) if us["high"] > budget["us"] else "yes",
            format_metric(point["value"]),
            str(point["trial"]),
            str(point["quota"]),
            _describe_settings(trials[point["trial"]]),
        ]
        for point in budget["frontier"]
        for us in [point["us"]]
    ]
    columns = ["µs", f"within {budget['us']:g}", metric, "trial", "first stage keeps", "settings"]
    plot = Plot(lambda figure: search_plots.plot_frontier(figure, budget, metric), caption)
    table = Table(columns, rows, measured, prose=("settings",))
    return [Section("Which funnel in how many µs", [plot, table])]


def _describe_settings(trial: Mapping[str, Any]) -> str:
    return "  ".join(format_values(trial["values"] or {})) or BASE


def _importance(document: Document) -> list[Section]:
    importance = document["importance"]
    if not importance:
        return []
    caption = (
        "How much each parameter decides whether a trial is among the better ones (PED-ANOVA). With few trials it is a "
        "hint."
    )
    shares = ", ".join(f"{name} {share:.2f}" for name, share in importance.items())
    height = 0.9 + 0.28 * len(importance)
    plot = Plot(lambda figure: search_plots.plot_importance(figure, importance), caption, height)
    return [Section("Importance", [plot, shares])]


def _slices(document: Document, complete: Sequence[Mapping[str, Any]]) -> list[Section]:
    metric, space = document["metric"], document["space"]
    known = [trial for trial in complete if trial["values"] is not None]
    if not known:
        return []

    def draw(figure: "Figure") -> None:
        slices = {name: _slice(span, [one["values"][name] for one in known]) for name, span in space.items()}
        search_plots.plot_slices(figure, slices, [one["value"] for one in known], metric)

    caption = f"{metric} of every trial that ended, against each parameter."
    return [Section("Each parameter", [Plot(draw, caption, 2.2 * _plot_rows(space))])]


def _slice(span: str, values: Sequence[Any]) -> "search_plots.Slice":
    if ".." in span:
        return search_plots.Slice(values, span.endswith(" log"))
    texts = [format_value(value) for value in values]
    ticks = sorted(set(texts), key=lambda text: (len(text), text))
    return search_plots.Slice([ticks.index(text) for text in texts], ticks=ticks)


def _best_trials(document: Document, complete: Sequence[Mapping[str, Any]]) -> Table:
    to_base = {row["run"]: row for row in _differences(document) if row["name"] == document["metric"]}
    best = sorted(complete, key=lambda trial: trial["value"], reverse=document["better"] != "lower")
    rows = [
        [
            str(trial["number"]),
            format_metric(trial["value"]),
            _DIFFERENCE(to_base[name]) if (name := f"trial {trial['number']}") in to_base else "–",
            _describe_settings(trial),
        ]
        for trial in best[:BEST_TRIALS]
    ]
    return Table(["trial", document["metric"], "less as written", "settings"], rows, prose=("settings",))


def _all_trials(document: Document) -> Table:
    names = list(document["space"])
    rows = [
        [
            str(trial["number"]),
            format_metric(trial["value"]),
            trial["state"],
            *(format_value(trial["values"][name]) if trial["values"] else "" for name in names),
            f"{trial['seconds']:.1f}",
        ]
        for trial in document["trials"]
    ]
    return Table(["trial", document["metric"], "", *names, "seconds"], rows)
