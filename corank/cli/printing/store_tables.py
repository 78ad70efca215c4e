"""A store's versions and its log, as the commands print them."""

from typing import Any

from rich import box
from rich.table import Table

from corank.cli.console import out, say
from corank.core.time import format_time


def show_versions(found: list[dict[str, Any]]) -> None:
    """Print a store's versions. A name is never shortened, since `rollback` takes it."""
    table = Table(box=box.SIMPLE)
    longest = max((len(held["version"]) for held in found), default=0)
    table.add_column("version", no_wrap=True, min_width=longest)
    table.add_column("", no_wrap=True, min_width=len("unfinished"))
    for column in ("name", "items", "newer", "published, UTC"):
        table.add_column(column, justify="right" if column in ("items", "newer") else "left", overflow="fold")
    for held in found:
        facts = held["facts"]
        state = "live" if held["live"] else _tell_state(facts) if facts else "unfinished"
        known = [facts["name"], f"{facts['items']:,}"] if facts else ["", f"{held['records']:,}"]
        when = format_time(facts["published_at"])[:16] if facts else ""
        table.add_row(held["version"], state, *known, f"{held['changed']:,}", when)
    out.print(table)


def _tell_state(facts: dict[str, Any]) -> str:
    """What a complete version that is not live is."""
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
