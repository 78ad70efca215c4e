"""What the commands of serving show."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from corank.cli.console import err, out, say
from corank.core.time import format_time


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of so many of so many; without a terminal nothing but the end."""
    bar = Progress(
        TextColumn(what),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
    told = (0, 0)
    with bar:
        task = bar.add_task(what, total=0)

        def progress(done: int, total: int) -> None:
            nonlocal told
            told = done, total
            bar.update(task, completed=done, total=total)

        yield progress
    if told[1]:
        say(f"{what}: {told[0]:,} of {told[1]:,}")


def show_versions(found: list[dict[str, Any]]) -> None:
    """A name is shown whole, since `rollback` takes it."""
    table = Table(box=box.SIMPLE)
    longest = max((len(held["version"]) for held in found), default=0)
    table.add_column("version", no_wrap=True, min_width=longest)
    table.add_column("", no_wrap=True, min_width=len("unfinished"))
    for column in ("name", "items", "newer", "published, UTC"):
        table.add_column(column, justify="right" if column in ("items", "newer") else "left", overflow="fold")
    for held in found:
        facts, state = held["facts"], "live" if held["live"] else ""
        known = [facts["name"], f"{facts['items']:,}"] if facts else ["", f"{held['records']:,}"]
        when = format_time(facts["published_at"])[:16] if facts else ""
        table.add_row(held["version"], state if facts else "unfinished", *known, f"{held['changed']:,}", when)
    out.print(table)
