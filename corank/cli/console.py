"""Output of the commands: lines on stderr, tables on stdout; one wider than the terminal is cut by its columns."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from corank.core.formatting import format_interval, format_metric
from corank.core.view import Beside, Block, Cell, Detail, Folded, Heading, Noted, Plot, Verdict, View
from corank.core.view import Table as TableView

if TYPE_CHECKING:
    from corank.training.checks.summary import CheckSummary


UNBOUNDED = 100_000


def fit_table(table: Table, console: Console, keys: int = 1) -> Iterator[Table]:
    """Cut a table by its columns, so that no word of it is broken; one that fits stays whole.

    Args:
        table: whose columns with `no_wrap` keep their width; others break between words.
        console: that it is for.
        keys: of the first columns, which every part has.
    """
    heads, rest = table.columns[:keys], table.columns[keys:]
    count = len(rest)
    while count > 1 and _width(_take(table, [*heads, *rest[:count]]), console) > console.width:
        count -= 1
    part = _take(table, [*heads, *rest[:count]])
    if _width(part, console) > console.width:  # a column that is wider than the terminal
        part.columns = [replace(column, no_wrap=False) for column in part.columns]
    yield part
    if count < len(rest):
        others = _take(table, [*heads, *rest[count:]])
        others.title = None
        yield from fit_table(others, console, keys)


def _take(table: Table, columns: list[Column]) -> Table:
    """A table of some columns."""
    part = copy(table)
    part.columns = [replace(column, _index=n) for n, column in enumerate(columns)]
    return part


def _width(table: Table, console: Console) -> int:
    """The width of a table whose words are whole, and lines, too, in columns with `no_wrap`."""
    options = console.options.update(width=UNBOUNDED)
    whole = _take(table, table.columns)
    for column in whole.columns:
        cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        column.min_width = max(cell.maximum if column.no_wrap else cell.minimum for cell in cells)
    return Measurement.get(console, options, whole).minimum


out = Console()
err = Console(stderr=True)

NAMES = ("feature", "side", "kind", "from", "table")


def say(line: str, to: Console = err) -> None:
    """Print a line as it is: brackets are no markup, and a long path is not wrapped."""
    to.print(line, markup=False, highlight=False, soft_wrap=True)


def show_table(table: Table, keys: int = 1) -> None:
    """Print a table; one that is wider than the terminal in parts, each with the first `keys` columns."""
    for part in fit_table(table, out, keys):
        out.print(part)


def show(view: View) -> None:
    """Print a view: its lead, then of each section the paragraphs and tables; a page has the rest."""
    if view.lead:
        say(view.lead, out)
    for section in view.sections:
        blocks = [block for block in section.blocks if not isinstance(block, Plot | Folded | Detail)]
        if blocks and section.title:
            say(f"\n{section.title}", out)
        for block in blocks:
            _show_block(block)


def _show_block(block: Block) -> None:
    match block:
        case str():
            say(block, out)
        case Heading():
            say(f"\n{block.text}", out)
        case TableView():
            _show_view_table(block)
        case Beside():
            for column in block.columns:
                for inner in column:
                    _show_block(inner)


STYLES = {1: "green", -1: "bold red", 0: ""}


def _show_view_table(view: TableView) -> None:
    table = Table(title=view.title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [n for n, name in enumerate(view.columns) if name not in view.details]
    for n in shown:
        name = view.columns[n]
        prose = name in view.prose
        left = n == 0 or prose or name in view.left
        header = name if prose else name.replace(" ", "\n")
        table.add_column(header, justify="left" if left else "right", overflow="fold", no_wrap=not prose)
    for row in view.rows:
        table.add_row(*(_text_of(row[n]) for n in shown))
    show_table(table, view.keys)


def _text_of(cell: Cell) -> Text:
    """A cell as the terminal shows it: a note is dim, a verdict has its colour."""
    match cell:
        case Noted():
            return Text.assemble(cell.text, "  ", (cell.note, "dim")) if cell.note else Text(cell.text)
        case Verdict():
            return Text(cell.text, style=STYLES[(cell.sign > 0) - (cell.sign < 0)])
        case _:
            return Text(cell)


def show_cells(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int | None = 0
) -> None:
    """Print rows of cells, aligned right but for the column at `left`."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == left else "right")
    for row in rows:
        table.add_row(*row)
    show_table(table)


def show_rows(
    title: str,
    rows: Sequence[Mapping[str, str | int]],
    left: Collection[str] = (),
    keys: int = 1,
    padding: tuple[int, int, int, int] = (0, 1, 0, 0),
) -> None:
    """Print rows of the same columns, one word of their names a line; those of `left` are aligned left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=padding)
    for column in rows[0]:
        justify: Literal["left", "right"] = "left" if column in left else "right"
        table.add_column(column.replace(" ", "\n"), justify=justify, overflow="fold", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else escape(v) for v in row.values()))
    show_table(table, keys)


def show_check(summary: "CheckSummary") -> None:
    """Print which feature enters which tower, what each loss learns from, and the rows of tables and splits."""
    title = f"{summary.config.name}: which feature enters which tower"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in summary.features[0]:
        justify: Literal["left", "center"] = "left" if column in NAMES else "center"
        table.add_column(column.replace(".", "\n"), justify=justify, overflow="fold", no_wrap=True)
    for row in summary.features:
        own = {"table": "own"} if row["table"] == row["feature"] else {}
        table.add_row(*map(escape, (row | own).values()))
    show_table(table)
    _show_samples(summary)
    for name, rows in summary.rows.items():
        say(f"{name}: {rows:,} rows", out)
    for split, candidates in summary.splits.items():
        requests = summary.data_check.splits[split].requests
        say(f"{split}: {requests:,} requests, {candidates:,} candidates", out)
    _show_counts("exposed rows by what is known of each label", summary.labels)
    _show_counts("rows that each loss learns from, an epoch of each split", summary.targets)
    for line in [*summary.forecast.lines, *(f"warning: {line}" for line in summary.data_check.warnings)]:
        say(line, out)


def _show_counts(title: str, rows: Sequence[Mapping[str, str | int]]) -> None:
    texts = [column for column, value in rows[0].items() if isinstance(value, str)]
    show_rows(title, rows, texts, padding=(0, 0, 0, 0))  # fits 80 columns


def _show_samples(summary: "CheckSummary") -> None:
    show_rows("candidates per request that each loss learns from", summary.samples, ("loss", "learns"))
    if summary.config.data.level is None:
        say(
            "The log has no levels: all of it counts as exposed, and what was cut is unknown. Negatives can only",
            out,
        )
        say("come from beyond it: {kind: unexposed, from: [batch]} or [catalogue].", out)


def show_study(document: dict[str, Any]) -> None:
    """Print for each question what was compared, and the verdict."""
    say(
        f"{document['name']}: {document['trials']} trials, {document['seeds']} seeds an arm, test split of "
        f"{document['requests']:,} requests of {document['users']:,} users",
        out,
    )
    for note in document["notes"]:
        say(note, out)
    for number, question in document["questions"].items():
        say(f"\n{number}. {question['title']}", out)
        if question.get("differences"):
            _show_differences(document, question["differences"])
        if question.get("correlations"):
            _show_correlations(document, question["correlations"])
        if question.get("quota"):
            _show_quota(document, question["quota"])
        for line in [*question["verdict"], *question["notes"]]:
            say(line, out)


def _show_differences(document: dict[str, Any], differences: dict[str, Any]) -> None:
    """Print each variant minus the config as written, by the end-to-end figure and one of each stage."""
    metrics = [
        m for m in dict.fromkeys([document["end"], "first_auc", "last_auc"]) if m in document["metrics"]
    ]
    columns = [document["metrics"][metric].replace("@", " @", 1) for metric in metrics]
    rows = [
        [escape(arm), *(_difference(figures.get(metric)) for metric in metrics)]
        for arm, figures in differences.items()
    ]
    show_cells("less the config as written", ["arm", *columns], rows)


def _difference(delta: dict[str, Any] | None) -> str:
    if delta is None:
        return "-"
    return f"{delta['value']:+.4f}" + (
        "" if delta["low"] is None else f"\n{delta['low']:+.4f} … {delta['high']:+.4f}"
    )


def _show_correlations(document: dict[str, Any], correlations: dict[str, Any]) -> None:
    title = f"rank correlation with {document['metrics'][document['end']]}, over checkpoints"
    rows = [(document["metrics"][metric], *bounded_cells(rho)) for metric, rho in correlations.items()]
    show_cells(title, ("figure", "ρ", "95 %"), rows)


def bounded_cells(figure: Mapping[str, Any]) -> tuple[str, str]:
    """A value and its interval, as text."""
    bounds = None if figure["low"] is None else [figure["low"], figure["high"]]
    return format_metric(figure["value"]), format_interval(bounds)


def _show_quota(document: dict[str, Any], quota: dict[str, Any]) -> None:
    rows = []
    for at, m in enumerate(quota["m"]):
        recalls = (format_metric(curve[at]) for curve in quota["recalls"].values())
        rows.append((f"{m}", *recalls, f"{quota['cpu_ms'][at]:.2f}"))
    names = [name.replace("_", " ") for name in quota["recalls"]]
    show_cells(None, ["m", *names, "CPU ms"], rows, left=None)


def show_answer(answer: dict[str, Any]) -> None:
    """Print the order, and where the candidates were cut."""
    say(f"model {answer['model_version']}  items {answer['items_seq']}", out)
    trace = {entry["id"]: entry for entry in answer.get("trace", [])}
    stages = list(max((e["stages"] for e in trace.values()), key=len, default={}))
    rows = []
    for rank, item in enumerate(answer["items"], start=1):
        ranks = [str(trace[item["id"]]["stages"][s]["rank"]) for s in stages]
        rows.append((str(rank), escape(str(item["id"])), f"{item['score']:.5f}", *ranks))
    show_cells("ranked", ["rank", "item", "score", *(f"rank at {s}" for s in stages)], rows, left=1)
    for stage in stages:
        reached = [entry for entry in trace.values() if stage in entry["stages"]]
        say(f"{stage} cut {sum(entry['cut'] == stage for entry in reached)} of {len(reached)}", out)
    for key in ("unknown", "missing"):
        if answer[key]:
            say(f"{key}: {', '.join(map(str, answer[key]))}", out)
