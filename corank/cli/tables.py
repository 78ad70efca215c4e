"""Tables and lines that commands print of groups, comparisons, searches, daily funnels, checks and stores."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import bounded_cells, out, say, show_cells, show_rows, show_table
from corank.core.formatting import format_metric
from corank.core.time import format_time

if TYPE_CHECKING:
    from corank.api.measuring import DriftResult
    from corank.continual.daily_result import DailyResult
    from corank.continual.history import PeriodRecord
    from corank.training.checks.log_profile import LogProfile


def show_comparison(document: dict[str, Any]) -> None:
    """Print the metrics of both runs, their differences, and what they say."""
    from corank.analysis.comparison_page import compared_parts, describe_lost, describe_rows

    say(f"a: {document['a']}", out)
    say(f"b: {document['b']}", out)
    say(f"{describe_rows(document)}; a minus b, 95 % intervals over users", out)
    if "on" in document:
        say(f"both judged on {document['on']}", out)
        if lost := describe_lost(document):
            say(lost, out)
    if any(document["margins"].values()):
        say("margins: " + ", ".join(f"{name} {value:g}" for name, value in document["margins"].items()), out)
    for part in compared_parts(document):
        _show_metrics(part.title, part.metrics)


def _show_metrics(title: str, metrics: Mapping[str, Any]) -> None:
    """Print a table of metrics and their differences."""
    from corank.analysis.comparison_page import format_bounds

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("metric", "a", "b", "a - b", "95 %", "a is"):
        left = column in ("metric", "a is")
        table.add_column(
            column, justify="left" if left else "right", no_wrap=column != "metric", overflow="fold"
        )
    for name, one in metrics.items():
        values = format_metric(one["a"]), format_metric(one["b"]), f"{one['difference']:+.4f}"
        verdict = one["verdict"] if one["verdict"] in ("better", "worse") else "none shown"
        table.add_row(name, *values, format_bounds(one), verdict)
    show_table(table)


def show_served(document: dict[str, Any]) -> None:
    """Print how a canary and a shadow compare with the live version."""
    from corank.analysis.comparison_page import (
        agreement_rows,
        compared_parts,
        describe_exposures,
        describe_part,
        format_sequence,
    )

    say(describe_exposures(document), out)
    for name in ("canary", "shadow"):
        if (part := document[name]) is None:
            continue
        for line in (f"the {name}: {part['verdict']}", *describe_part(part)):
            say(line, out)
        for figure, value in agreement_rows(part):
            say(f"{figure}: {value}", out)
        if part["sequential"]:
            table = Table(
                title=f"{name}, intervals that hold at every look", title_justify="left", box=box.SIMPLE_HEAD
            )
            for column in ("figure", "a", "b", "interval of a - b", "a is"):
                table.add_column(column, overflow="fold", no_wrap=column != "a is")
            for figure, delta in part["sequential"].items():
                values = format_metric(delta.get("a")), format_metric(delta.get("b"))
                table.add_row(figure, *values, format_sequence(delta, "low", "high"), delta["verdict"])
            show_table(table)
        for compared in compared_parts({"stages": part["stages"], "cuts": {}, "cascade": {}}):
            _show_metrics(f"{name}: {compared.title}", compared.metrics)


def show_sweep(document: dict[str, Any]) -> None:
    """Print the arms, the best first, with their differences to the config as written and to the best."""
    metric = document["metric"]
    say(
        f"{document['name']}: {document['trials']} trials, {document['seeds']} seeds an arm, validation split of "
        f"{document['requests']:,} requests",
        out,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for column in (metric, "less as written", "less the best", "seconds"):
        table.add_column(column, justify="right")
    for arm, facts in document["arms"].items():
        value = facts["figures"].get(metric)
        table.add_row(
            escape("\n".join(f"{key}={json.dumps(value)}" for key, value in facts["changes"].items()) or arm),
            format_metric(value["value"]) if value else "diverged",
            _difference(facts["to_base"].get(metric)),
            _difference(facts["to_best"].get(metric)),
            f"{facts['seconds']:.1f}",
        )
    show_table(table)
    for line in [document["verdict"], *document["notes"]]:
        say(line, out)
    show_chosen(document)


def show_chosen(document: dict[str, Any]) -> None:
    """Print the test figures of the chosen config, and its location."""
    if document["test"] is not None:
        rows = [(name, *bounded_cells(figure)) for name, figure in document["test"].items()]
        show_cells("test split, of the chosen config alone", ("figure", "value", "95 %"), rows)
    say(f"config: {document['config_file']}  run: {document['run']}", out)


def _difference(delta: dict[str, Any] | None) -> str:
    if delta is None:
        return "-"
    value = f"{delta['value']:+.4f}"
    return value if delta["low"] is None else f"{value} [{delta['low']:+.4f}, {delta['high']:+.4f}]"


SHOWN_TRIALS = 10


def show_tuning(document: dict[str, Any]) -> None:
    """Print the best trials, what mattered, and the chosen one."""
    metric, trials = document["metric"], document["trials"]
    complete = [trial for trial in trials if trial["value"] is not None]
    say(
        f"{document['name']}: {len(trials)} trials, {len(complete)} of them completed, validation "
        f"split of {document['requests']:,} requests",
        out,
    )
    best = sorted(complete, key=lambda trial: trial["value"], reverse=document["better"] != "lower")
    table = Table(
        title="the best trials; 1 is the config as written", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("trial", justify="right")
    table.add_column(metric, justify="right")
    table.add_column("settings", overflow="fold")
    for trial in best[:SHOWN_TRIALS]:
        table.add_row(str(trial["number"]), format_metric(trial["value"]), _describe_settings(trial))
    show_table(table)
    if document["importance"]:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in document["importance"].items())
        say(f"importance: {shares}", out)
    if document["budget"] is not None:
        _show_frontier(document)
    say(document["verdict"], out)
    show_chosen(document)


def _show_frontier(document: dict[str, Any]) -> None:
    """Print the funnels that no faster one equals, with the measured latency of each."""
    budget, trials = document["budget"], {trial["number"]: trial for trial in document["trials"]}
    title = f"which funnel to run in how many µs ({budget['machine']}); budget {budget['us']:g}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("µs", "95 %", document["metric"], "trial", "keep"):
        table.add_column(column, justify="right")
    table.add_column("settings", overflow="fold")
    for point in budget["frontier"]:
        us, said = point["us"], _describe_settings(trials[point["trial"]])
        interval = f"{us['low']:,.0f} … {us['high']:,.0f}"
        fits = "" if us["high"] <= budget["us"] else " over"
        cells = [f"{us['median']:,.0f}", interval + fits, format_metric(point["value"])]
        table.add_row(*cells, str(point["trial"]), str(point["quota"]), said)
    show_table(table)


def _describe_settings(trial: dict[str, Any]) -> str:
    """The values of a trial, as markup."""
    values = (trial["values"] or {}).items()
    texts = [f"{key}={f'{v:.3g}' if isinstance(v, float) else json.dumps(v)}" for key, v in values]
    return escape("  ".join(texts) or "as written")


NEWEST = 14
"""Periods that are printed, at most; the page and `--json` have all."""


def show_daily(result: "DailyResult") -> None:
    """Print the decisions on the newest periods, with the figures of the gate."""
    if not result.records:
        say("no period is due", out)
        return
    names = [condition.figure for condition in result.gate]
    table = Table(title="candidate against live", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("period", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    for column in ("candidates", "seconds", *dict.fromkeys(name.replace(".", "\n") for name in names)):
        table.add_column(column, justify="right", no_wrap=True)
    for record in result.records[-NEWEST:]:
        pairs = [_pair(record, name) for name in dict.fromkeys(names)]
        rows = f"{sum(record.rows.values()):,}" if record.rows else ""
        seconds = f"{sum(record.seconds.values()):.0f}"
        table.add_row(record.period, record.decision, rows, seconds, *pairs)
    show_table(table)
    for reason in () if result.refused is None else result.refused.reasons:
        say(f"{result.records[-1].period}: {escape(reason)}", out)
    live = result.live
    say("no period is live" if live is None else f"live: {live.period}, model {live.model}", out)
    say(f"page: {result.page}", out)


def _pair(record: "PeriodRecord", name: str) -> str:
    """A figure of the candidate, and below it the live run's on the same rows."""
    values = (record.candidate.get(name), record.reference.get(name))
    return "\n".join("" if value is None else format_metric(value) for value in values)


def show_profile(profile: "LogProfile") -> None:
    """Print what training knows of each split, requests by content, and advice."""
    title = "values of each feature, missing ones, and the share of candidates whose value training knows"
    show_rows(title, profile.feature_rows, list(profile.feature_rows[0])[:2], keys=2)
    counts = profile.request_rows
    show_rows("requests by their number of candidates, and of positives", counts, list(counts[0])[:1])
    for split, count in profile.unread.items():
        if count:
            say(f"{split}: no loss reads {count:,} candidates, whose level none takes", out)
    say(f"recipe: {profile.recipe}", out)
    for line in profile.advice:
        say(f"advice: {line}", out)


STYLES = {"broken": "bold red", "few": "dim", "off": "dim"}


def show_drift(found: "DriftResult") -> None:
    """Print each figure of the run and of the new rows, its threshold and its verdict; then how vocabularies grow."""
    table = Table(title=found.headline, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("figure", "of", "reference", "now", "threshold", "verdict"):
        left = column in ("figure", "of", "verdict")
        text = column in ("reference", "now")  # what a column holds, or why it is not compared
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=not text)
    for cells in found.rows:
        style = STYLES.get(cells["verdict"])
        table.add_row(*map(escape, cells.values()), style=style)
    show_table(table, 2)
    if found.vocabularies:
        _show_vocabularies(found)


def _show_vocabularies(result: "DriftResult") -> None:
    title = "vocabularies: rows now, and after `pack --from`"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("feature", overflow="fold", no_wrap=True)
    for column in ("rows", "admitted", "evicted", "after", "free"):
        table.add_column(column, justify="right")
    for name, vocabulary in result.vocabularies.items():
        counts = vocabulary.document().values()
        table.add_row(escape(name), *("-" if count is None else f"{count:,}" for count in counts))
    show_table(table)


def show_refusal(found: "DriftResult") -> None:
    """Print on stderr why the rows are refused, and the remedy."""
    for reason in found.reasons:
        say(f"refused: {reason}")
    say("mend the tables; or, if the change is meant, set another threshold under `drift` in the config")


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
