"""The page of studies, experiments and tunings: what was chosen and why, answers, arms or trials, the test."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from corank.analysis.colours import ACROSS, plot_rows
from corank.analysis.experiments.arms import BASE, format_value, format_values
from corank.analysis.pivot import Pivot, draw_values, group_by, value_cell
from corank.core.formatting import format_metric
from corank.core.lazy import lazy
from corank.core.version import corank_version
from corank.core.view import Block, Cell, Detail, Folded, Noted, Plot, Section, Table, Verdict, View
from corank.evaluation.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from corank.analysis import plots, search_plots
else:
    plots, search_plots = lazy("corank.analysis.plots"), lazy("corank.analysis.search_plots")

BEST_TRIALS = 10
"""Trials of the table of the best."""
Document = Mapping[str, Any]
"""Of a study, an experiment or a tuning: `rows` are figures and differences of arms, or trials."""
_ALSO_SHOWN = ("last_auc", "first_candidates_auc", "click_recall", "first_auc")
"""Figures that are drawn of a question, behind those that decide it."""
_DIFFERENCE = partial(value_cell, signed=True)


def _figures(document: Document, split: str | None = None) -> list[Row]:
    """The means of figures on a split, that of the arms unless given."""
    split = split or document["split"]
    return [r for r in document["rows"] if r["split"] == split and r["base"] is None and r["rate"] is None]


def _differences(document: Document, base: str = BASE, arms: Collection[str] | None = None) -> list[Row]:
    """The differences of arms, or of some, to another."""
    rows = (row for row in document["rows"] if row["base"] == base)
    return [row for row in rows if arms is None or row["run"] in arms]


_KINDS = {"study": "a study", "experiment": "an experiment", "tune": "a tuning"}


def experiment_view(document: Document) -> View:
    """The view of a study, an experiment or a tuning: of the parts that its document has."""
    kind, chosen, notes = document["kind"], "chosen" in document, [*document.get("notes", ())]
    method = Section("How to read it", [Detail([_method(document)]), *([] if chosen else notes)])
    sections = [
        *([_chosen_section(document, *notes)] if chosen else ()),
        method,
        *(question_section(document, number) for number in document.get("questions", ())),
        *(_trial_sections if kind == "tune" else _arm_sections)(document),
        *([_test_section(document)] if chosen else ()),
        Section(
            "Config", [Folded("The config as written", yaml.safe_dump(document["config"], sort_keys=False))]
        ),
    ]
    users = f" of {document['users']:,} users" if "users" in document else ""
    tested = f"{document['requests']:,} requests{users}, {document['candidates']:,} candidates"
    return View(
        f"{document['name']}: {_KINDS[kind]}",
        f"Split {document['split']}: {tested}. {_describe_trials(document)}, corank {corank_version()}.",
        sections,
    )


def _describe_trials(document: Document) -> str:
    trials = document["trials"]
    if document["kind"] != "tune":
        return f"{trials} trials of {len(document['arms'])} arms, seeds an arm: {document['seeds']}"
    drawn = " of a grid" if document["seed"] is None else f" drawn with seed {document['seed']}"
    return f"{len(trials)} trials{drawn}, {len(_complete(document))} of them completed"


def _method(document: Document) -> str:
    """How arms or trials are compared, and how much a difference says."""
    metric = document["metric"]
    if document["kind"] == "tune":
        return (
            f"Trials are compared by {metric} of the validation split, one seed each. The best of many looks better "
            "than it is: the test split below was read once, for the best trial alone. Compare a few candidates with "
            "several seeds by corank experiment."
        )
    difference = (
        "A difference is an arm minus the config as written, on the same users, seed by seed. Its 95 % interval is "
        "over users and seeds; it does not include the choice of the rate. Cannot tell: the interval contains 0."
    )
    if document["kind"] == "experiment":
        return (
            f"An arm is the config with some changes, trained with {document['seeds']} seeds and compared by {metric} "
            f"of the validation split. {difference} The best of many arms looks better than it is, since it was chosen "
            "by these figures; not so on the test split, which was read once, for the chosen arm alone."
        )
    rates = ", ".join(f"{rate:.3g}" for rate in document["rates"])
    return (
        "An arm is the config with one change. All arms have the same budget: the config's epochs and batches, all "
        f"learning rates times one of {rates}, chosen by validation clicks, then {document['seeds']} seeds. "
        f"{difference} Intervals are not corrected for multiple comparisons: expect one in twenty to mislead."
    )


def question_section(document: Document, number: str) -> Section:
    """The answer to one question of a study's document."""
    question, titles = document["questions"][number], document["titles"]
    blocks: list[Block] = [*question["verdict"]]
    if rows := _differences(document, arms=question.get("arms", ())):
        shown = _common_names(rows, [document["metric"], *question["metrics"], *_ALSO_SHOWN])
        blocks += _compared(rows, {name: titles[name] for name in shown})
        others = [row for row in rows if row["name"] in titles and row["name"] not in shown]
        blocks.append(Detail(_figure_tables(others, titles, _DIFFERENCE)))
    if question.get("correlations"):
        blocks += _correlations(document, question)
    if question.get("quota"):
        blocks += _quota(document, question["quota"])
    return Section(f"{number}. {question['title']}", [*blocks, *question["notes"]])


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


def _correlations(document: Document, question: Mapping[str, Any]) -> list[Block]:
    names, end, points = document["titles"], document["metric"], question["checkpoints"]
    rho = question["correlations"]
    rows = [{"name": names[name], **one} for name, one in rho.items()]
    caption = (
        f"How well a figure of one stage, or of its cut, orders checkpoints as {names[end]} does: rank correlation "
        "with a 95 % interval over arms. Every rate and seed of every arm is a checkpoint."
    )
    title = f"rank correlation with {names[end]}, over checkpoints"

    def scatter(figure: "Figure") -> None:
        y = np.array(points[end])
        panels = {names[name]: plots.Series(np.array(points[name]), y) for name in rho}
        plots.scatters(figure, panels, names[end], points["arm"])

    return [
        draw_values(rows, lambda row: "Spearman's ρ", "name", caption, from_zero=True),
        Pivot("name", beside={"ρ": value_cell}).table(rows, title, "figure"),
        Plot(
            scatter,
            f"Every checkpoint: {names[end]} against each figure. No slope: the figure does not predict it.",
            2.2 * plot_rows(len(rho)) + 0.2 * plot_rows(len(set(points["arm"]))),
        ),
    ]


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


def _arm_sections(document: Document) -> list[Section]:
    """All arms; of an experiment beside the config as written, with all figures."""
    if "chosen" not in document:
        return [Section("All arms", [Detail([_arms_table(document)])])]
    rows = _differences(document)
    others = [row["name"] for row in rows if row["run"] == rows[0]["run"]]
    shown = {name: name for name in _common_names(rows, [document["metric"], *others])} if rows else {}
    blocks = _compared(rows, shown)[:1] or ["There is nothing to compare."]
    figures = _figure_tables(_figures(document), {})
    return [
        Section("Beside the config as written", [*blocks, _arms_table(document)]),
        Section("All figures", [Detail(figures)]),
    ]


def _arms_table(document: Document) -> Table:
    """The arms by the metric, with their differences to the config as written, and to the best, and their costs."""
    titles, metric = document.get("titles", {}), document["metric"]
    also = [name for name in ("first_auc", "last_auc") if name in titles and name != metric]
    figures = {(row["run"], row["name"]): row["value"] for row in _figures(document)}
    bases = {BASE: "less as written"}
    bases.setdefault(document.get("chosen", BASE), "less the best")
    less = {
        title: {row["run"]: _DIFFERENCE(row) for row in _differences(document, base) if row["name"] == metric}
        for base, title in bases.items()
    }
    rows: list[list[Cell]] = []
    for arm, facts in document["arms"].items():
        known = (arm, metric) in figures
        rate, parameters, steps = facts["rate"] or 0.0, facts["parameters"] or {}, facts["steps"] or 0
        rows.append(
            [
                arm,
                format_metric(figures[arm, metric]) if known else Verdict("diverged", -1),
                *(of.get(arm, "–") for of in less.values()),
                *(format_metric(figures.get((arm, name))) for name in also),
                *([f"× {rate:.3g}", f"{sum(parameters.values()):,}", f"{steps:,}"] if known else [""] * 3),
                f"{facts['seconds']:.1f}",
            ]
        )
    costs = ("rate", "parameters", "steps")
    names = [titles.get(name, name) for name in also]
    columns = ["arm", titles.get(metric, metric), *less, *names, *costs, "seconds a training"]
    return Table(columns, rows, f"{BASE}: the config itself", prose=("arm",), details=(*names, *costs))


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


def _trial_sections(document: Document) -> list[Section]:
    """The trials of a tuning: by latency, in their order, by parameter, and one by one."""
    complete = _complete(document)
    history = (
        f"{document['metric']} by trial. Trial 1 is the config as written. Grey: ended early, or diverged."
    )
    best = sorted(complete, key=lambda trial: trial["value"], reverse=document["better"] != "lower")
    space = Table(["parameter", "range"], [[name, span] for name, span in document["space"].items()])
    return [
        *_frontier(document),
        Section("History", [Plot(lambda figure: search_plots.plot_history(figure, document), history)]),
        *_importance(document),
        *_slices(document, complete),
        Section("The best trials; 1 is the config as written", [_trials_table(document, best[:BEST_TRIALS])]),
        Section("All trials", [Detail([_trials_table(document, document["trials"]), space])]),
    ]


def _complete(document: Document) -> list[Mapping[str, Any]]:
    return [trial for trial in document["trials"] if trial["value"] is not None]


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
    drawn = [
        {"name": name, "value": importance[name], "low": None, "high": None}
        for name in sorted(importance, key=lambda name: -importance[name])
    ]
    return [Section("Importance", [draw_values(drawn, lambda row: "importance", "name", caption), shares])]


def _slices(document: Document, complete: Sequence[Mapping[str, Any]]) -> list[Section]:
    metric, space = document["metric"], document["space"]
    known = [trial for trial in complete if trial["values"] is not None]
    if not known:
        return []

    def draw(figure: "Figure") -> None:
        slices = {name: _slice(span, [one["values"][name] for one in known]) for name, span in space.items()}
        search_plots.plot_slices(figure, slices, [one["value"] for one in known], metric)

    caption = f"{metric} of every trial that ended, against each parameter."
    return [Section("Each parameter", [Plot(draw, caption, 2.2 * plot_rows(len(space)))])]


def _slice(span: str, values: Sequence[Any]) -> "search_plots.Slice":
    if ".." in span:
        return search_plots.Slice(values, span.endswith(" log"))
    ordered = sorted(values, key=lambda value: value if isinstance(value, int | float) else np.inf)
    ticks = [*dict.fromkeys(map(format_value, ordered))]
    return search_plots.Slice([ticks.index(format_value(value)) for value in values], ticks=ticks)


def _trials_table(document: Document, trials: Sequence[Mapping[str, Any]]) -> Table:
    metric = document["metric"]
    to_base = {row["run"]: _DIFFERENCE(row) for row in _differences(document) if row["name"] == metric}
    rows = [
        [
            str(trial["number"]),
            format_metric(trial["value"]),
            to_base.get(f"trial {trial['number']}", "–"),
            trial["state"],
            f"{trial['seconds']:.1f}",
            _describe_settings(trial),
        ]
        for trial in trials
    ]
    columns = ["trial", metric, "less as written", "state", "seconds", "settings"]
    return Table(columns, rows, prose=("settings",), details=("state", "seconds"))
