"""Results of commands: a document, the one that the command prints by `--json`, with tables and a plot."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

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
        from corank.analysis.html import render_part

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
        from corank.analysis.html import render_part

        return render_part(self.view() or view_frames(self.headline, self.tables))


@dataclass(frozen=True, eq=False, repr=False)
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
    sections = [
        Section(
            name,
            [
                Table(
                    table.columns,
                    [[_format(value) for value in row] for row in table.head(SHOWN_ROWS).rows()],
                )
            ],
        )
        for name, table in tables.items()
    ]
    return View(headline, headline, sections)


def _format(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def draw_first(view: View | None) -> "Figure":
    """Draw the first plot of a view, an empty figure if it has none. Raises MissingExtraError without matplotlib."""
    with name_missing_extra("plot()"):
        from corank.api.figures import draw_figure
    drawn = next(view.plots(), None) if view else None
    return draw_figure(drawn.draw, drawn.height) if drawn else draw_figure(lambda figure: None)


def frame(rows: list[dict[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as a frame, of the columns of a schema, even if there are none."""
    return pl.DataFrame(rows, schema=dict(schema))


_BOUNDED = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
STAGES = {"stage": pl.String, "population": pl.String, "label": pl.String, "metric": pl.String, **_BOUNDED}
CASCADE = {"metric": pl.String, **_BOUNDED, "random": pl.Float64, "requests": pl.Int64}
RELIABILITY = {
    "stage": pl.String,
    "label": pl.String,
    "bin": pl.Int64,
    **dict.fromkeys(("raw", "calibrated", "observed", "low", "high"), pl.Float64),
    "n": pl.Int64,
}
DIFFERENCES = {
    **dict.fromkeys(("stage", "population", "label", "metric"), pl.String),
    **dict.fromkeys(("a", "b", "difference", "low", "high", "margin"), pl.Float64),
    "verdict": pl.String,
    "not_worse": pl.Boolean,
}
_NOT_METRICS = ("n", "eligible", "random")


def _bounds(pair: Any) -> tuple[float | None, float | None]:
    return (None, None) if pair is None else (pair[0], pair[1])


def list_stage_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each metric of each stage, population and label of an evaluation's document."""
    intervals = (document.get("interval") or {}).get("stages", {})
    for stage, populations in document["stages"].items():
        for population, labels in populations.items():
            for label, metrics in labels.items():
                known = intervals.get(stage, {}).get(population, {}).get(label, {})
                for metric, value in metrics.items():
                    if metric not in _NOT_METRICS:
                        low, high = _bounds(known.get(metric))
                        key = {"stage": stage, "population": population, "label": label, "metric": metric}
                        yield key | {"value": value, "low": low, "high": high}


def list_cascade_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each metric of the cascade of an evaluation's document."""
    cascade = document["cascade"]
    if cascade is not None:
        intervals = (document.get("interval") or {}).get("cascade") or {}
        for metric, requests in cascade["eligible"].items():
            low, high = _bounds(intervals.get(metric))
            value, random = cascade[metric], cascade["random"][metric]
            yield dict(zip(CASCADE, (metric, value, low, high, random, requests), strict=True))


def _difference_rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each compared metric of each stage, population and label."""
    for stage, populations in document["stages"].items():
        for population, labels in populations.items():
            for label, metrics in labels.items():
                key = {"stage": stage, "population": population, "label": label}
                yield from ({**key, "metric": metric, **figure} for metric, figure in metrics.items())


@dataclass(frozen=True, eq=False, repr=False)
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
        document = self.document
        return (
            f"{document['split']}: {document['requests']:,} requests, {document['candidates']:,} candidates"
        )

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages`: metrics with intervals; `cascade`: those of the stages together; `reliability`: bins."""
        reliability = [
            {"stage": stage, "label": label, "bin": n, **bin_}
            for stage, labels in self.document["reliability"].items()
            for label, bins in labels.items()
            for n, bin_ in enumerate(bins or [])
        ]
        return {
            "stages": frame(list(list_stage_rows(self.document)), STAGES),
            "cascade": frame(list(list_cascade_rows(self.document)), CASCADE),
            "reliability": frame(reliability, RELIABILITY),
        }

    def view(self) -> View:
        """The stages side by side, the cascade, and calibration, with 95 % intervals."""
        from corank.analysis.evaluation_view import evaluation_view

        return evaluation_view(self.document)


@dataclass(frozen=True, eq=False, repr=False)
class GroupsResult(PlottedResult):
    """A run evaluated group by group, such as by day.

    Example:
        >>> corank.evaluate("shop/runs/shop", by="day").tables["stages"].columns[:3]
        ['group', 'stage', 'population']
    """

    @property
    def headline(self) -> str:
        """Split, by what, and how many groups."""
        document = self.document
        return f"{document['split']} by {document['by']}: {len(document['groups']):,} groups"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`stages` and `cascade`, with the column `group` in front."""
        named = [(str(group["name"]), group) for group in self.document["groups"]]
        stages = [{"group": name, **row} for name, group in named for row in list_stage_rows(group)]
        cascade = [{"group": name, **row} for name, group in named for row in list_cascade_rows(group)]
        return {
            "stages": frame(stages, {"group": pl.String} | STAGES),
            "cascade": frame(cascade, {"group": pl.String} | CASCADE),
        }

    def view(self) -> View:
        """A table a metric of every stage, group by group, with 95 % intervals."""
        from corank.analysis.evaluation_view import groups_view

        return groups_view(self.document, self.headline)

    def plot(self, metric: str = "auc") -> "Figure":
        """Draw a metric of every stage, group by group, on the exposed candidates."""
        from corank.analysis.evaluation_view import plot_groups

        return draw_first(View("", "", [Section("", plot_groups(self.document, metric))]))


@dataclass(frozen=True, eq=False, repr=False)
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
        document = self.document
        return f"{document['a']} less {document['b']}: {document['candidates']:,} candidates"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`differences`: values `a` and `b`, their difference with its interval, and the verdict; cuts and cascade,
        too, under the stage `cut NAME` and `cascade`."""
        return {"differences": frame(list(self._rows()), DIFFERENCES)}

    def view(self) -> View:
        """A summary, what is compared, and the differences of each part."""
        from corank.analysis.comparison_page import comparison_view

        return comparison_view(self.document)

    def _rows(self) -> Iterator[dict[str, Any]]:
        yield from _difference_rows(self.document)
        others = {f"cut {name}": cut for name, cut in self.document.get("cuts", {}).items()}
        for stage, metrics in (others | {"cascade": self.document.get("cascade") or {}}).items():
            key = {"stage": stage, "population": None, "label": None}
            yield from ({**key, "metric": metric, **figure} for metric, figure in metrics.items())


SEQUENTIAL = {
    **dict.fromkeys(("role", "figure"), pl.String),
    **dict.fromkeys(("a", "b", "difference", "low", "high", "p", "fixed_low", "fixed_high"), pl.Float64),
    "verdict": pl.String,
}


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
        parts = [f"{part['a']} less {part['b']}: {part['verdict']}" for _, part in self._parts()]
        return "; ".join(parts)

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`sequential`: differences with intervals that hold at every look; `differences`: metrics by stage."""
        sequential, differences = list[dict[str, Any]](), list[dict[str, Any]]()
        for role, part in self._parts():
            for figure, comparison in part["sequential"].items():
                named = {"role": role, "figure": figure, **comparison}
                sequential.append({name: named.get(name) for name in SEQUENTIAL})
            differences += [{"role": role, **row} for row in _difference_rows(part)]
        return {
            "sequential": frame(sequential, SEQUENTIAL),
            "differences": frame(differences, {"role": pl.String, **DIFFERENCES}),
        }

    def view(self) -> View:
        """What is said of the canary and of the shadow."""
        from corank.analysis.comparison_page import served_view

        return served_view(self.document)

    def _parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((name, part) for name in ("canary", "shadow") if (part := self.document[name]) is not None)


@dataclass(frozen=True, eq=False, repr=False)
class ExplanationResult(PlottedResult):
    """The worth of each feature of a run to each stage, and its online latency.

    Example:
        >>> corank.explain("shop/runs/shop", most=50).tables["features"].columns[:5]
        ['feature', 'side', 'kind', 'stage', 'metric']
    """

    @property
    def headline(self) -> str:
        """Split and candidates."""
        document = self.document
        return f"{document['split']}: what AUC and GAUC lose without a feature, {document['candidates']:,} candidates"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`features`: a row a feature, stage and metric; `latency`: microseconds of a request, a row a feature."""
        features = self.document["features"]
        latency = [{"feature": name, **feature["microseconds"]} for name, feature in features.items()]
        texts = dict.fromkeys(("feature", "side", "kind", "stage", "metric"), pl.String)
        return {
            "features": frame(list(self._rows()), {**texts, **_BOUNDED}),
            "latency": pl.DataFrame(latency, infer_schema_length=None),
        }

    def view(self) -> View:
        """What each stage loses without each feature, the largest first, and latencies."""
        from corank.analysis.explanation_view import explanation_view

        return explanation_view(self.document)

    def plot(self, metric: str = "auc") -> "Figure":
        """Draw what a metric loses without each of the features that are worth most to the last stage."""
        from corank.analysis.explanation_view import explanation_view

        return draw_first(explanation_view(self.document, metric))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for name, feature in self.document["features"].items():
            for stage, metrics in feature["stages"].items():
                for metric, drop in metrics.items():
                    low, high = _bounds(drop["interval"])
                    key = {"feature": name, "side": feature["side"], "kind": feature["kind"]}
                    figure = {"value": drop["value"], "low": low, "high": high}
                    yield {**key, "stage": stage, "metric": metric, **figure}


@dataclass(frozen=True, eq=False, repr=False)
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
        document = self.document
        trials = f"{document['trials']} trials, {document['seeds']} seeds an arm"
        return f"{document['name']}: {trials}, {document['requests']:,} requests"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`verdicts`: a row a sentence; `differences`: each variant less the config as written, with intervals."""
        texts = dict.fromkeys(("question", "arm", "metric"), pl.String)
        verdicts = [
            {"question": number, "title": question["title"], "verdict": line}
            for number, question in self.document["questions"].items()
            for line in question["verdict"]
        ]
        return {
            "verdicts": frame(verdicts, dict.fromkeys(("question", "title", "verdict"), pl.String)),
            "differences": frame(list(self._rows()), {**texts, **_BOUNDED}),
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

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, question in self.document["questions"].items():
            for arm, metrics in (question.get("differences") or {}).items():
                for metric, difference in metrics.items():
                    if difference is not None:
                        key = {"question": number, "arm": arm, "metric": metric}
                        yield key | {name: difference[name] for name in _BOUNDED}


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult(PlottedResult):
    """A sweep or a tuning: the trials, the chosen config, and its figures on the test split.

    Example:
        >>> sweep = corank.sweep("shop/config.yaml", {"train.rank.lr": [0.003]}, seeds=1)
        >>> sweep.tables["test"].columns
        ['metric', 'value', 'low', 'high', 'n']
    """

    @property
    def headline(self) -> str:
        """The metric that chose, and the location of the chosen config."""
        document = self.document
        return f"{document['name']}: {document['metric']}, the chosen config is {document['config_file']}"

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`trials`: a row an arm or a trial, of its plain figures; `test`: the chosen config on the test split."""
        arms = self.document.get("arms", {})  # of a sweep, whose `trials` are a count
        rows = [self._of_arm(name, arm) for name, arm in arms.items()] or self.document["trials"]
        plain = [
            {n: v for n, v in row.items() if v is None or isinstance(v, str | int | float)} for row in rows
        ]
        texts, bounds = {"metric": pl.String}, {**_BOUNDED, "n": pl.Int64}
        test = [
            {"metric": name, **{key: figure.get(key) for key in bounds}}
            for name, figure in (self.document["test"] or {}).items()
        ]
        return {
            "trials": pl.DataFrame(plain, infer_schema_length=None),
            "test": frame(test, {**texts, **bounds}),
        }

    def _of_arm(self, name: str, arm: dict[str, Any]) -> dict[str, Any]:
        figure = arm["figures"].get(self.document["metric"]) or {}
        return {"arm": name, **{key: figure.get(key) for key in _BOUNDED}, **arm}

    def view(self) -> View:
        """What was chosen and why, every arm or trial, and the test of the chosen config."""
        from corank.analysis.experiments.views import sweep_view, tune_view

        return (sweep_view if "arms" in self.document else tune_view)(self.document)
