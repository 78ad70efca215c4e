"""Results of commands: a document, the one that the command prints by `--json`, with tables and a plot."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from corank.analysis.comparison_page import agreement_view, comparison_view
from corank.analysis.evaluation_view import plot_groups, view_of
from corank.analysis.explanation_view import explanation_view
from corank.analysis.html import render_part
from corank.core.errors import DataError
from corank.core.lazy import name_missing_extra
from corank.core.settings import describe_unknown
from corank.core.view import Beside, Block, Heading, Plot, Section, Table, View
from corank.evaluation.rows import name_row, to_frame, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FIRST_ROWS = 10
"""Rows of all tables that a notebook's cell, or a terminal, shows of a result at first."""


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
        """The view that the command prints on stdout without `--json`, and a page shows, if `lines` do not say all."""
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
        shown = first_look(view)
        return render_part(replace(shown, sections=[*shown.sections, Section("", list(self.reasons))]))


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
        return render_part(first_look(self.view() or view_frames(self.headline, self.tables)))


class PlottedResult(DocumentResult):
    """A result that can be drawn."""

    def plot(self) -> "Figure":
        """Draw the figures that matter most: the first plot of the view, an empty figure if it has none.

        Returns a figure of matplotlib, which `savefig` writes as SVG or PNG. Raises MissingExtraError without
        matplotlib, which `corank[train]` brings.
        """
        return draw_first(self.view())


def view_frames(headline: str, tables: Mapping[str, pl.DataFrame]) -> View:
    """Show frames as tables."""
    rows = {name: table.rows() for name, table in tables.items()}
    shown = {
        n: Table(tables[n].columns, [[_format(value) for value in row] for row in rows[n]]) for n in tables
    }
    return View(headline, headline, [Section(name, [table]) for name, table in shown.items()])


def first_look(view: View) -> View:
    """The first rows of a view's tables, its first plot, and where the rest is; a short view as it is."""
    left, plots, total, sections = FIRST_ROWS, 1, 0, list[Section]()
    for section in view.sections:
        blocks = list[Block]()
        for block in _flat(section.blocks):
            if isinstance(block, Table):
                total += len(block.rows)
                if left > 0:
                    blocks.append(replace(block, rows=block.rows[:left]))
                    left -= len(block.rows)
            elif isinstance(block, Plot):
                if plots:
                    blocks.append(block)
                    plots -= 1
            elif left > 0 and isinstance(block, str | Heading):
                blocks.append(block)
        if blocks:
            sections.append(replace(section, blocks=blocks))
    if total > FIRST_ROWS:
        sections.append(
            Section("", [f"{FIRST_ROWS} of {total:,} rows; .tables has all, corank report a page"])
        )
    return replace(view, sections=sections)


def _flat(blocks: Sequence[Block]) -> Iterator[Block]:
    """Blocks, those next to each other one after another."""
    for block in blocks:
        if isinstance(block, Beside):
            for column in block.columns:
                yield from _flat(column)
        else:
            yield block


class Metrics(dict[str, float | None]):
    """Metrics by `STAGE.LABEL.METRIC`, printed as a short table: a row a metric, a column a stage and label."""

    def __repr__(self) -> str:
        cells = [(*name.rpartition(".")[::2], value) for name, value in self.items() if value is not None]
        heads = list(dict.fromkeys(head for head, _, _ in cells))
        names = list(dict.fromkeys(name for _, name, _ in cells))
        found = {(head, name): f"{value:.4f}" for head, name, value in cells}
        rows = [["metric", *heads], *([n, *(found.get((h, n), "") for h in heads)] for n in names)]
        shown = rows[: FIRST_ROWS - 1]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in shown]
        return "\n".join(
            [*lines, *([f"… {len(rows) - len(shown)} more metrics"] if rows[len(shown) :] else [])]
        )


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


class TableResult(PlottedResult):
    """A table of figures, `rows`, each with its place, and further facts."""

    @abstractmethod
    def view(self) -> View:
        """What the command prints, and a page shows."""

    @property
    def headline(self) -> str:
        """What was measured."""
        return self.view().lead

    def frame(self) -> pl.DataFrame:
        """The rows as a frame of polars, with the columns that they have."""
        return to_frame(self["rows"])

    def row(self, name: str, **where: Any) -> dict[str, Any]:
        """The row of a figure, by the name that a gate knows it by, such as `rank.exposed.click.auc`.

        Args:
            name: STAGE.POPULATION.LABEL.METRIC, without what the row has not.
            where: values of other columns, such as `group="2026-04-30"` (default: a row of no group).

        Raises DataError if there is none.
        """
        where = {"group": ""} | where
        rows = [row for row in self["rows"] if all(row.get(key) == value for key, value in where.items())]
        named = {name_row(row): row for row in reversed(rows)}
        if name not in named:
            raise DataError(describe_unknown(name, named, "figure"))
        return dict(named[name])

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`figures`: the frame."""
        return {"figures": self.frame()}

    def to_json(self) -> str:
        """The document as JSON text, as the command prints it: a row a line."""
        return to_json(self.document)


class EvaluationResult(TableResult):
    """A run evaluated on a split, as a whole or group by group, such as by day.

    Example:
        >>> evaluation = corank.evaluate("shop/runs/shop")
        >>> evaluation.frame().columns[:7]
        ['run', 'split', 'stage', 'label', 'population', 'group', 'metric']
        >>> evaluation.row("rank.exposed.click.auc")["value"] > 0.4
        True
    """

    def view(self) -> View:
        """The stages side by side, the cascade, and calibration; or a table a metric, group by group."""
        return view_of(self.document)

    def plot(self, metric: str | None = None) -> "Figure":
        """Draw the calibration of every stage; of groups a metric, AUC unless given, group by group."""
        if "by" not in self["run"]:
            return super().plot()
        return draw_first(View("", "", [Section("", plot_groups(self.document, metric or "auc"))]))


class ComparisonResult(TableResult):
    """Two runs, two bundles, or two tables of scores, compared on the same candidates: a row a difference.

    Example:
        >>> brief = corank.train("shop/config.yaml", ["name=brief", "train.epochs=1"]).run
        >>> comparison = corank.compare(brief.folder, "shop/runs/shop")
        >>> "no difference shown" in set(comparison.frame()["verdict"])
        True
    """

    def view(self) -> View:
        """A summary, what is compared, and the differences of each part."""
        return comparison_view(self.document)


class AgreementResult(TableResult):
    """Numbers computed twice, which must be equal: a row a kind, with how many `differ`, and `where` most."""

    def view(self) -> View:
        """The largest difference of each kind, how many are beyond the tolerance, and where most."""
        return agreement_view(self.document)


class ExplanationResult(TableResult):
    """The worth of each feature of a run to each stage.

    Rows with a feature as their `group` are differences to its values shuffled.

    Example:
        >>> explanation = corank.explain("shop/runs/shop", most=50)
        >>> abs(explanation.row("rank.exposed.click.auc", group="city")["difference"]) < 0.5
        True
    """

    def view(self) -> View:
        """What each stage loses without each feature, the largest first."""
        return explanation_view(self.document)

    def plot(self, metric: str = "auc") -> "Figure":
        """Draw what a metric loses without each of the features that are worth most to the last stage."""
        return draw_first(explanation_view(self.document, metric))


class ExperimentResult(TableResult):
    """An experiment or a tuning: figures of arms or trials, and differences to the column `base`.

    Intervals are over users and seeds. The chosen config has its figures on the test split, too.

    Example:
        >>> tuning = corank.tune("shop/config.yaml", grid={"train.rank.lr": [0.003]}, out="shop/grid")
        >>> tuning.row("rank.exposed.click.auc", split="test")["run"] == tuning["chosen"]
        True
    """

    @property
    def headline(self) -> str:
        """The metric compared, the number of requests, and the chosen config."""
        compared = f"{self['name']}: {self['metric']}, {self['requests']:,} requests"
        return f"{compared}, the chosen config is {self['config_file']}"

    def view(self) -> View:
        """What was chosen and why, every arm or trial, and the test."""
        from corank.analysis.experiments.views import experiment_view

        return experiment_view(self.document)
