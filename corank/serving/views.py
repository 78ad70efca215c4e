"""What commands show of a funnel's answer, and of a store's versions and its log."""

from collections.abc import Mapping, Sequence
from typing import Any

from corank.core.time import format_time
from corank.core.view import Block, Section, Table, View


def answer_view(answer: Mapping[str, Any]) -> View:
    """The order of an answer, and where the candidates were cut."""
    trace = {entry["id"]: entry for entry in answer.get("trace", [])}
    stages = list(max((entry["stages"] for entry in trace.values()), key=len, default={}))
    rows = []
    for rank, item in enumerate(answer["items"], start=1):
        ranks = [str(trace[item["id"]]["stages"][stage]["rank"]) for stage in stages]
        rows.append([str(rank), str(item["id"]), f"{item['score']:.5f}", *ranks])
    columns = ["rank", "item", "score", *(f"rank at {stage}" for stage in stages)]
    blocks: list[Block] = [Table(columns, rows, left=["item"], keys=2)]
    for stage in stages:
        reached = [entry for entry in trace.values() if stage in entry["stages"]]
        blocks.append(f"{stage} cut {sum(entry['cut'] == stage for entry in reached)} of {len(reached)}")
    blocks += [f"{key}: {', '.join(map(str, answer[key]))}" for key in ("unknown", "missing") if answer[key]]
    return View(
        "Answer", f"model {answer['model_version']}  items {answer['items_seq']}", [Section("Ranked", blocks)]
    )


def versions_view(versions: Sequence[Mapping[str, Any]]) -> View:
    """A store's versions, as `corank.store_versions` lists them."""
    rows = []
    for entry in versions:
        facts = entry["facts"]
        name, items = (facts["name"], facts["items"]) if facts else ("", entry["records"])
        when = format_time(facts["published_at"])[:16] if facts else ""
        rows.append([entry["version"], _state(entry), when, f"{items:,}", f"{entry['changed']:,}", name])
    columns = ["version", "", "published, UTC", "items", "newer", "name"]
    names = {row[-1] for row in rows} - {""}
    title = ""
    if len(names) == 1:  # said once, so that a terminal of 80 columns has room for the table
        (title,) = names
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    table = Table(columns, rows, title, left=["", "published, UTC", "name"])
    faults = [entry["unreadable"] for entry in versions if entry["unreadable"]]
    return View("Versions", "", [Section("", [table, *faults])])


def _state(entry: Mapping[str, Any]) -> str:
    facts = entry["facts"]
    if not facts:
        return "unfinished"
    if entry["unreadable"]:
        return "live, unreadable" if entry["live"] else "unreadable"
    if entry["live"]:
        return "live"
    return "withdrawn" if facts["withdrawn"] else "" if facts["seq"] else "staged"


def log_view(changes: Sequence[Mapping[str, Any]]) -> View:
    """What was done to a store, a line each, as `corank.store_log` reads it; a change as --items-as-of takes it."""
    return View("Log", "", [Section("", [*map(_describe_change, changes)])])


def _describe_change(change: Mapping[str, Any]) -> str:
    what = change["what"] + (f" of {change['items']:,} items" if change["items"] else "")
    what += f", {change['removed_items']:,} removed" if change["removed_items"] else ""
    about = (
        ", ".join(change["removed"]) if change["what"] == "prune" else change["beside"] or change["version"]
    )
    when, name = format_time(change["at"]), f"{change['change']}-{change['id'] or '?'}"
    return f"{when}  {name}  {change['by']}  {what}  {about}"
