"""Output of the commands: lines on stderr, tables on stdout; one wider than the terminal is cut by its columns."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from corank.core.formatting import format_interval, format_metric
from corank.core.view import Beside, Block, Cell, Detail, Folded, Heading, Noted, Plot, Verdict, View
from corank.core.view import Table as TableView

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
    for n, name in enumerate(view.columns):
        prose = name in view.prose
        left = n == 0 or prose or name in view.left
        header = name if prose else name.replace(" ", "\n")
        table.add_column(header, justify="left" if left else "right", overflow="fold", no_wrap=not prose)
    for row in view.rows:
        table.add_row(*map(_text_of, row))
    if _width(table, out) > out.width:
        table.padding = 0  # one that fits then is not cut
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


def show_evaluation(document: dict[str, Any]) -> None:
    """Print the stages side by side, then the cascade, with 95 % intervals."""
    say(f"{document['split']}: {document['requests']:,} requests, {document['candidates']:,} candidates", out)
    labels = {
        (p, label) for s in document["stages"].values() for p, by_label in s.items() for label in by_label
    }
    for population, label in sorted(labels, key=lambda part: (part[0] != "exposed", part[1])):
        _show_stages(document, population, label)
        if population == "exposed":
            _show_reliability(document["reliability"], label)
    cascade, intervals = document["cascade"], document["interval"]["cascade"]
    if cascade is not None:
        _show_cascade("cascade", cascade, intervals)
        for name, metrics in cascade.get("stages", {}).items():
            _show_cascade(f"cascade · {name} against the last", metrics, intervals["stages"][name])


def _show_stages(document: dict[str, Any], population: str, label: str) -> None:
    """Print the metrics of a label; below, of those within groups, how many groups count and a random order's value."""
    stages = {n: s[population].get(label) for n, s in document["stages"].items()}
    known = [metrics for metrics in stages.values() if metrics]
    figures = [m for m in known[0] if m not in ("n", "eligible", "random")]
    figures = [m for m in figures if any(metrics[m] is not None for metrics in known)]
    if not figures:
        return
    table = Table(title=f"{population} · {label}", title_justify="left", box=box.SIMPLE)
    table.add_column("metric")
    for name in stages:
        table.add_column(name, justify="right")
        table.add_column("95 %", style="dim")
    for metric in figures:
        cells: list[str] = []
        for name, metrics in stages.items():
            bounds = document["interval"]["stages"][name][population].get(label, {}).get(metric)
            cells += [format_metric(metrics[metric] if metrics else None), format_interval(bounds)]
        table.add_row(metric, *cells)
    show_table(table)
    random: dict[int, list[str]] = {}
    for metric, count in known[0].get("eligible", {}).items():
        if count:
            random.setdefault(count, []).append(f"{metric} {format_metric(known[0]['random'][metric])}")
    for count, values in random.items():
        say(f"  {count:,} groups with a 1 and a 0; random order: {', '.join(values)}", out)


def _show_reliability(reliability: dict[str, Any], label: str) -> None:
    """Print predicted and observed rates, bin by bin from the lowest predictions to the highest."""
    curves = {stage: by_label[label] for stage, by_label in reliability.items() if by_label.get(label)}
    if not curves:
        return
    keys = ("raw", "calibrated", "observed")
    bins = zip_longest(*curves.values(), fillvalue=dict[str, Any]())
    rows = [[format_metric(rates.get(key)) for rates in of_bin for key in keys] for of_bin in bins]
    columns = [column for stage in curves for column in (f"{stage}\nraw", *keys[1:])]
    show_cells(f"reliability · {label}", columns, rows, left=None)


def _show_cascade(title: str, cascade: dict[str, Any], bounds: dict[str, Any]) -> None:
    rows = []
    for metric, eligible in cascade["eligible"].items():
        value, random = format_metric(cascade[metric]), format_metric(cascade["random"][metric])
        rows.append((metric, value, format_interval(bounds[metric]), random, f"{eligible:,}"))
    show_cells(title, ("metric", "value", "95 %", "random", "requests"), rows)


def show_explanation(document: dict[str, Any]) -> None:
    """Print features by their worth to the last stage, the largest first."""
    stages = list(document["stages"])
    say(f"{document['split']}: what AUC and GAUC lose without a feature, in 0.0001", out)
    say("± half the 95 % interval over users", out)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("feature", "side", "kind"):
        table.add_column(column, overflow="fold")
    for stage in stages:
        table.add_column(f"{stage}\nauc", justify="right")
        table.add_column("gauc", justify="right")
    table.add_column("µs", justify="right")
    worth = {n: f["stages"][stages[-1]]["auc"]["value"] or 0.0 for n, f in document["features"].items()}
    for name in sorted(worth, key=lambda name: -worth[name]):
        feature = document["features"][name]
        cells = [escape(name), feature["side"], feature["kind"]]
        for stage in stages:
            drops = feature["stages"][stage]
            cells += [_with_interval(drops["auc"]), _with_interval(drops["gauc"])]
        table.add_row(*cells, f"{feature['microseconds']['total']:,.0f}")
    show_table(table)
    base = ", ".join(
        f"{s} {format_metric(f['auc'])} / {format_metric(f['gauc'])}" for s, f in document["stages"].items()
    )
    say(f"with all features, AUC / GAUC of {document['candidates']:,} candidates: {base}", out)
    say(
        "µs: encoding, look-up and first layers of one request; an item's vectors and codes are computed ahead",
        out,
    )


def _with_interval(difference: dict[str, Any]) -> str:
    """Format a difference in ten-thousandths, ± half its interval."""
    if difference["value"] is None:
        return "-"
    low, high = difference["interval"] or (None, None)
    return f"{difference['value'] * 1e4:+.0f}" + ("" if low is None else f"±{(high - low) / 2 * 1e4:.0f}")


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
