"""The profile of a log, as `corank check` prints it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import out, say, show_table

if TYPE_CHECKING:
    from corank.training.profile.log_profile import LogProfile


def show_profile(profile: "LogProfile") -> None:
    """Print what training knows of each split, requests by content, and advice."""
    title = "values of each feature, missing ones, and the share of candidates whose value training knows"
    _show(title, profile.feature_rows, left=2)
    _show("requests by their number of candidates, and of positives", profile.request_rows, left=1)
    for split, count in profile.unread.items():
        if count:
            say(f"{split}: no loss reads {count:,} candidates, whose level none takes", out)
    say(f"recipe: {profile.recipe}", out)
    for line in profile.advice:
        say(f"advice: {line}", out)


def _show(title: str, rows: Sequence[dict[str, str]] | Sequence[dict[str, str | int]], left: int) -> None:
    """Print rows, the first `left` columns aligned left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for n, column in enumerate(rows[0]):
        table.add_column(
            column.replace(" ", "\n"), justify="left" if n < left else "right", overflow="fold", no_wrap=True
        )
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else escape(v) for v in row.values()))
    show_table(table, left)
