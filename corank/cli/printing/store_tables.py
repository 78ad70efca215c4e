"""A store's versions and its log, as the commands print them."""

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import out, say, show_table
from corank.core.time import format_time


def show_versions(found: list[dict[str, Any]]) -> None:
    """Print a store's versions. A name is never shortened, since `rollback` takes it."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)  # fits 80 columns
    for column in ("version", "", "published, UTC", "items", "newer", "name"):
        right = column in ("items", "newer")
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=True)
    for entry in found:
        facts = entry["facts"]
        state = "live" if entry["live"] else _tell_state(facts) if facts else "unfinished"
        name, items = (facts["name"], facts["items"]) if facts else ("", entry["records"])
        when = format_time(facts["published_at"])[:16] if facts else ""
        table.add_row(entry["version"], state, when, f"{items:,}", f"{entry['changed']:,}", escape(name))
    show_table(table)


def _tell_state(facts: dict[str, Any]) -> str:
    """The state of a complete version that is not live."""
    if facts["withdrawn"]:
        return "withdrawn"
    return "" if facts["seq"] else "staged"


def show_log(found: list[dict[str, Any]]) -> None:
    """Print what was done to a store, a line each; a change is named as --items-as-of takes it."""
    for line in found:
        what = line["what"] + (f" of {line['items']:,} items" if line["items"] else "")
        removed = ", ".join(line["removed"])
        about = removed if line["what"] == "prune" else line["beside"] or line["version"]
        when = format_time(line["at"])
        say(f"{when}  {line['change']}-{line['id'] or '?'}  {line['by']}  {what}  {about}", out)
