"""Results of commands: a document, the one that the command prints by `--json`, with tables and a plot."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from corank.analysis.comparison_page import comparison_view, served_view
from corank.analysis.evaluation_view import evaluation_view, groups_view, plot_groups
from corank.analysis.explanation_view import explanation_view
from corank.analysis.html import render_part
from corank.core.lazy import name_missing_extra
from corank.core.view import Section, Table, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHOWN_ROWS = 60
"""Rows of a table that a notebook shows, at most."""


class Result(ABC):
    """What a function of `corank` returns, and what its command prints of it."""

    @abstractmethod
    def to_json(self) -> str:
        """The document that the command prints by `--json`."""

    @property
    def lines(self) -> Sequence[str]:
        """What was written and where, a line each, for stderr."""
        return ()

    def view(self) -> View | None:
        """What the command prints on stdout without `--json`, and a page shows; None if `lines` say all."""
        return None

    @property
    def reasons(self) -> Sequence[str]:
        """Why it was refused, a line each; the command then ends with exit status 3. Empty if it was not."""
        return ()

    def require(self) -> None:  # noqa: B027 - most forbid nothing
        """Raise a CorankError if what it shows forbids to continue."""

    def _repr_html_(self) -> str | None:
        """Its view and the reasons, for the output of a notebook's cell."""
        view = self.view()
        if view is None:
            return None
        return render_part(replace(view, sections=[*view.sections, Section("", list(self.reasons))]))


@dataclass(frozen=True, eq=False, repr=False)
class DocumentResult(Result, Mapping[str, Any]):
    """A document, read like a dict: `result["stages"]`; with tables, JSON and a notebook's view of it."""

    document: dict[str, Any]
    """As the command prints it by `--json`: plain values."""

    @property
    @abstractmethod
    def tables(self) -> dict[str, pl.DataFrame]:
        """The document's figures as frames of polars, by name."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """What the result is about, in one line."""

    def to_json(self) -> str:
        """The document as JSON text, as the command prints it."""
        return json.dumps(self.document, indent=1, allow_nan=False)

    def __getitem__(self, key: str) -> Any:
        return self.document[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.document)

    def __len__(self) -> int:
        return len(self.document)

    def __eq__(self, other: object) -> bool:
        return self.document == (other.document if isinstance(other, DocumentResult) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        return render_part(self.view() or view_frames(self.headline, self.tables))


class PlottedResult(DocumentResult):
    """A result that can be drawn."""

    def plot(self) -> "Figure":
        """Draw the figures that matter most: the first plot of the view, an empty figure if it has none.

        Returns a figure of matplotlib, which `savefig` writes as SVG or PNG. Raises MissingExtraError without
        matplotlib, which `corank[train]` brings.
        """
        return draw_first(self.view())


def view_frames(headline: str, tables: Mapping[str, pl.DataFrame]) -> View:
    """Show frames as tables, of which each has its first rows."""
    rows = {name: table.head(SHOWN_ROWS).rows() for name, table in tables.items()}
    shown = {
        n: Table(tables[n].columns, [[_format(value) for value in row] for row in rows[n]]) for n in tables
    }
    return View(headline, headline, [Section(name, [table]) for name, table in shown.items()])


def _format(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def draw_first(view: View | None) -> "Figure":
    """Draw the first plot of a view, an empty figure if it has none. Raises MissingExtraError without matplotlib."""
    with name_missing_extra("plot()"):
        from corank.api.figures import draw_figure
    drawn = next(view.plots(), None) if view else None
    return draw_figure(drawn.draw, drawn.height) if drawn else draw_figure(lambda figure: None)


def frame(rows: Iterable[Mapping[str, Any]], texts: Sequence[str] = (), /, **types: Any) -> pl.DataFrame:
    """Rows as a frame, even if there are none: columns of texts, then others of given types; other keys go."""
    return pl.DataFrame(list(rows), schema=dict.fromkeys(texts, pl.String) | types)


_BOUNDED: dict[str, Any] = dict.fromkeys(("value", "low", "high"), pl.Float64)
_STAGES = ("stage", "population", "label", "metric")
_CASCADE = {**_BOUNDED, "random": pl.Float64, "requests": pl.Int64}
_BINS = dict.fromkeys(("raw", "calibrated", "observed", "low", "high"), pl.Float64)
_COMPARED: dict[str, Any] = dict.fromkeys(("a", "b", "difference", "low", "high"), pl.Float64)
_DIFFERENCES = {**_COMPARED, "margin": pl.Float64, "verdict": pl.String, "not_worse": pl.Boolean}
_SEQUENTIAL = _COMPARED | dict.fromkeys(("p", "fixed_low", "fixed_high"), pl.Float64) | {"verdict": pl.String}
_NOT_METRICS = ("n", "eligible", "random")


def flatten(nested: Any, *keys: str) -> Iterator[dict[str, Any]]:
    """A row for each of the mappings, or of the values, in nested mappings, with the names that lead to it.

    Example:
        >>> list(flatten({"rank": {"auc": 0.7}}, "stage", "metric"))
        [{'stage': 'rank', 'metric': 'auc', 'value': 0.7}]
    """
    if keys:
        for name, part in (nested or {}).items():
            yield from ({keys[0]: name, **row} for row in flatten(part, *keys[1:]))
    else:
        yield nested if isinstance(nested, dict) else {"value": nested}


def _bound(rows: Iterable[dict[str, Any]], intervals: Any, *keys: str) -> Iterator[dict[str, Any]]:
    """Rows with the bounds of their intervals, which lie in nested mappings at the same names."""
    for row in rows:
        pair = intervals
        for key in keys:
            pair = (pair or {}).get(row[key])
        yield row | dict(zip(("low", "high"), pair or (), strict=False))


def _stage_rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each metric of each stage, population and label of an evaluation's document."""
    rows = (row for row in flatten(document["stages"], *_STAGES) if row["metric"] not in _NOT_METRICS)
    return _bound(rows, (document.get("interval") or {}).get("stages"), *_STAGES)


def _cascade_rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each metric of the cascade of an evaluation's document."""
    cascade = document["cascade"] or {"eligible": {}}
    figures = {
        metric: {"value": cascade[metric], "random": cascade["random"][metric], "requests": requests}
        for metric, requests in cascade["eligible"].items()
    }
    rows = flatten(figures, "metric")
    return _bound(rows, (document.get("interval") or {}).get("cascade"), "metric")


class EvaluationResult(PlottedResult):
    """A run evaluated on a split.

    Example:
        >>> evaluation = corank.evaluate("shop/runs/shop")
        >>> evaluation.tables["stages"].columns
        ['stage', 'population', 'label', 'metric', 'value', 'low', 'high']
        >>> evaluation["stages"]["rank"]["exposed"]["click"]["auc"] > 0.4
        True
    """

    @property
    def headline(self) -> str:
        """Split, requests and candidates."""
        return f"{self['split']}: {self['requests']:,} requests, {self['candidates']:,} candidates"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages`: metrics with intervals; `cascade`: those of the stages together; `reliability`: bins."""
        reliability = (
            {"stage": stage, "label": label, "bin": n, **bin_}
            for stage, labels in self["reliability"].items()
            for label, bins in labels.items()
            for n, bin_ in enumerate(bins or [])
        )
        return {
            "stages": frame(_stage_rows(self), _STAGES, **_BOUNDED),
            "cascade": frame(_cascade_rows(self), ["metric"], **_CASCADE),
            "reliability": frame(reliability, ["stage", "label"], bin=pl.Int64, **_BINS, n=pl.Int64),
        }

    def view(self) -> View:
        """The stages side by side, the cascade, and calibration, with 95 % intervals."""
        return evaluation_view(self.document)


class GroupsResult(PlottedResult):
    """A run evaluated group by group, such as by day.

    Example:
        >>> corank.evaluate("shop/runs/shop", by="day").tables["stages"].columns[:3]
        ['group', 'stage', 'population']
    """

    @property
    def headline(self) -> str:
        """Split, by what, and how many groups."""
        return f"{self['split']} by {self['by']}: {len(self['groups']):,} groups"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages` and `cascade`, with the column `group` in front."""
        named = [(str(group["name"]), group) for group in self["groups"]]
        stages = ({"group": name, **row} for name, group in named for row in _stage_rows(group))
        cascade = ({"group": name, **row} for name, group in named for row in _cascade_rows(group))
        return {
            "stages": frame(stages, ["group", *_STAGES], **_BOUNDED),
            "cascade": frame(cascade, ["group", "metric"], **_CASCADE),
        }

    def view(self) -> View:
        """A table a metric of every stage, group by group, with 95 % intervals."""
        return groups_view(self.document, self.headline)

    def plot(self, metric: str = "auc") -> "Figure":
        """Draw a metric of every stage, group by group, on the exposed candidates."""
        return draw_first(View("", "", [Section("", plot_groups(self.document, metric))]))


class ComparisonResult(PlottedResult):
    """Two runs, or two tables of scores, compared on the same candidates.

    Example:
        >>> comparison = corank.compare("shop/runs/shop", "shop/runs/shop")
        >>> set(comparison.tables["differences"]["verdict"])
        {'no difference shown'}
    """

    @property
    def headline(self) -> str:
        """What was compared."""
        return f"{self['a']} less {self['b']}: {self['candidates']:,} candidates"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`differences`: values `a` and `b`, their difference with its interval, and the verdict; cuts and cascade,
        too, under the stage `cut NAME` and `cascade`."""
        others = {f"cut {name}": cut for name, cut in self.get("cuts", {}).items()}
        others["cascade"] = self.get("cascade")
        rows = [*flatten(self["stages"], *_STAGES), *flatten(others, "stage", "metric")]
        return {"differences": frame(rows, _STAGES, **_DIFFERENCES)}

    def view(self) -> View:
        """A summary, what is compared, and the differences of each part."""
        return comparison_view(self.document)


class ServedComparisonResult(PlottedResult):
    """A canary and a shadow compared with the live version, by the log of what was served.

    Example:
        >>> corank.compare_served("nowhere")
        Traceback (most recent call last):
        corank.core.errors.DataError: nowhere: no served requests here; `corank serve --log nowhere` writes them
    """

    @property
    def headline(self) -> str:
        """The compared versions, and the verdicts."""
        parts = self._parts().values()
        return "; ".join(f"{part['a']} less {part['b']}: {part['verdict']}" for part in parts)

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`sequential`: differences with intervals that hold at every look; `differences`: metrics by stage."""
        sequential = {role: part["sequential"] for role, part in self._parts().items()}
        stages = {role: part["stages"] for role, part in self._parts().items()}
        return {
            "sequential": frame(flatten(sequential, "role", "figure"), ["role", "figure"], **_SEQUENTIAL),
            "differences": frame(flatten(stages, "role", *_STAGES), ["role", *_STAGES], **_DIFFERENCES),
        }

    def view(self) -> View:
        """What is said of the canary and of the shadow."""
        return served_view(self.document)

    def _parts(self) -> dict[str, dict[str, Any]]:
        return {name: self[name] for name in ("canary", "shadow") if self[name] is not None}


class ExplanationResult(PlottedResult):
    """The worth of each feature of a run to each stage, and its online latency.

    Example:
        >>> corank.explain("shop/runs/shop", most=50).tables["features"].columns[:5]
        ['feature', 'side', 'kind', 'stage', 'metric']
    """

    @property
    def headline(self) -> str:
        """Split and candidates."""
        return f"{self['split']}: what AUC and GAUC lose without a feature, {self['candidates']:,} candidates"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`features`: a row a feature, stage and metric; `latency`: microseconds of a request, a row a feature."""
        rows = (
            {
                "feature": name,
                **feature,
                **row,
                **dict(zip(("low", "high"), row["interval"] or (), strict=False)),
            }
            for name, feature in self["features"].items()
            for row in flatten(feature["stages"], "stage", "metric")
        )
        latency = [{"feature": name, **feature["microseconds"]} for name, feature in self["features"].items()]
        return {
            "features": frame(rows, ["feature", "side", "kind", "stage", "metric"], **_BOUNDED),
            "latency": pl.DataFrame(latency, infer_schema_length=None),
        }

    def view(self) -> View:
        """What each stage loses without each feature, the largest first, and latencies."""
        return explanation_view(self.document)

    def plot(self, metric: str = "auc") -> "Figure":
        """Draw what a metric loses without each of the features that are worth most to the last stage."""
        return draw_first(explanation_view(self.document, metric))


class StudyResult(PlottedResult):
    """Nine questions about joint training, answered on a log by training variants of a config.

    Example:
        >>> study = corank.study("shop/config.yaml", seeds=1, questions=[1], rates=[1])
        >>> study.tables["differences"].columns
        ['question', 'arm', 'metric', 'value', 'low', 'high']
    """

    @property
    def headline(self) -> str:
        """Trainings, seeds and requests."""
        trials = f"{self['trials']} trials, {self['seeds']} seeds an arm"
        return f"{self['name']}: {trials}, {self['requests']:,} requests"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`verdicts`: a row a sentence; `differences`: each variant less the config as written, with intervals."""
        verdicts = (
            {"question": number, "title": question["title"], "verdict": line}
            for number, question in self["questions"].items()
            for line in question["verdict"]
        )
        arms = {number: question.get("differences") for number, question in self["questions"].items()}
        keys = ("question", "arm", "metric")
        differences = [row for row in flatten(arms, *keys) if row["value"] is not None]
        return {
            "verdicts": frame(verdicts, ["question", "title", "verdict"]),
            "differences": frame(differences, keys, **_BOUNDED),
        }

    def view(self) -> View:
        """Each question with its verdict, figures and tables, then all arms and the config."""
        from corank.analysis.experiments.views import study_view

        return study_view(self.document)

    def plot(self, question: int | str | None = None) -> "Figure":
        """Draw the answer to a question: what each variant gains or loses, or what the answer shows instead.

        Args:
            question: its number; the first that is drawn unless given.
        """
        from corank.analysis.experiments.views import question_section

        numbers = self.document["questions"] if question is None else [str(question)]
        return draw_first(View("", "", [question_section(self.document, number) for number in numbers]))


class SearchResult(PlottedResult):
    """An experiment or a tuning: the trials, the chosen config, and its figures on the test split.

    Example:
        >>> tuning = corank.tune("shop/config.yaml", grid={"train.rank.lr": [0.003]}, out="shop/grid")
        >>> tuning.tables["test"].columns
        ['metric', 'value', 'low', 'high', 'n']
    """

    @property
    def headline(self) -> str:
        """The metric that chose, and the location of the chosen config."""
        return f"{self['name']}: {self['metric']}, the chosen config is {self['config_file']}"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`trials`: a row an arm or a trial, of its plain figures; `test`: the chosen config on the test split."""
        trials = self["trials"]
        if arms := self.get("arms"):  # of an experiment, whose `trials` are a count
            none: dict[str, Any] = dict.fromkeys(_BOUNDED)
            figures = {name: arm["figures"].get(self["metric"]) or none for name, arm in arms.items()}
            trials = [{"arm": n, **{key: figures[n].get(key) for key in none}, **arms[n]} for n in arms]
        plain = [
            {n: v for n, v in row.items() if v is None or isinstance(v, str | int | float)} for row in trials
        ]
        return {
            "trials": pl.DataFrame(plain, infer_schema_length=None),
            "test": frame(flatten(self["test"], "metric"), ["metric"], **_BOUNDED, n=pl.Int64),
        }

    def view(self) -> View:
        """What was chosen and why, every arm or trial, and the test of the chosen config."""
        from corank.analysis.experiments.views import experiment_view, tune_view

        return (experiment_view if "arms" in self.document else tune_view)(self.document)
