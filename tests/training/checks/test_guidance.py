"""Suggestions of `corank check`: reasons, and lines to paste."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.training.checks.findings import Finding, report_findings
from tests.support.command_line import run_corank

CONFIG = """
name: small
data:
  log: log.parquet
  items: items.parquet
  request: [request_id]
  user: user_id
  item: item_id
  time: time
  level: level
  levels: [retrieved, exposed]
  labels: {buy: {column: is_buy}}
  split: {valid: 2026-03-02, test: 2026-03-03}
features:
  user_id: {side: user, kind: id}
  item_id: {side: item, kind: id}
  price: {side: item, kind: number}
  match: {side: cross, kind: number}
stages:
  - {name: prerank, model: towers, keep: 2, query: [4], item: [4], label: buy}
  - {name: rank, model: mlp, keep: 1, hidden: [4], labels: [buy], value: buy}
losses:
  - {kind: click, stage: rank, label: buy}
  - {kind: click, stage: prerank, label: buy}
train: {epochs: 1, requests: 8}
"""
DAYS, REQUESTS, USERS, ITEMS = 3, 40, 10, 12
"""Requests are of each day."""
ALL = {
    "losses.2": "no loss of what was not exposed (kind: unexposed, in_batch)",
    "features.item_buy_rate": "no rate of 'buy' by item (kind: prior)",
    "features.user_buy_rate": "no rate of 'buy' by user (kind: prior)",
    "features.shown": "no history of what the user was shown, in which candidates are looked for",
    "features.history": "no history of the user (kind: ids, of the item's id)",
    "features.match_rank": "no number beside those of the request's other candidates (kind: within)",
    "features.listed": "no age of the item (kind: age)",
    "data.position": "no position on the page (data.position)",
    "features.candidates": "no number of the request's candidates (kind: candidates)",
}
"""First key to paste → what is lacking, in the order in which it counts."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A log that asks for all: sizes differ, users buy again and again, half of what was retrieved was exposed."""
    rows = []
    for number in range(DAYS * REQUESTS):
        day, n = divmod(number, REQUESTS)
        time = datetime(2026, 3, 1 + day, tzinfo=UTC) + timedelta(minutes=n)
        for k in range(4 + n % 3):
            shown = k % 2 == 0
            place = k // 2 if shown else None
            buy = int(k == 2 * (n % 2)) if shown else None
            level = "exposed" if shown else "retrieved"
            rows.append((number, n % USERS, (n + k) % ITEMS, time, level, place, buy, float(k)))
    columns = ["request_id", "user_id", "item_id", "time", "level", "position", "is_buy", "match"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(tmp_path / "log.parquet")
    items = pl.DataFrame({"item_id": range(ITEMS), "price": [float(n) for n in range(ITEMS)]})
    items.with_columns(listed=pl.lit(datetime(2026, 2, 1))).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path / "config.yaml"


def suggest(config: Path, *overrides: str) -> list[Finding]:
    return [finding for finding in corank.check(config, overrides).findings if finding.paste]


def paste(config: Path, *suggestions: Finding) -> None:
    """Put the lines that are printed below the key that is printed."""
    text = config.read_text()
    for suggestion in suggestions:
        said, *lines = suggestion.lines
        key = said.rpartition("under `")[2].removesuffix("`:")
        # what losses have is a list, to which the line is added
        before, begin, after = text.partition(f"\n{key}:\n")
        assert begin and lines
        first, *rest = after.split("\n") if key == "losses" else ["", *after.split("\n")]
        text = before + begin + "\n".join([*filter(None, [first]), *lines, *rest])
    config.write_text(text)


def test_a_log_that_asks_for_all_gets_all(config: Path) -> None:
    suggestions = suggest(config)
    assert [next(iter(suggestion.paste)) for suggestion in suggestions] == [*ALL]
    assert all(s.what.startswith(lacking) for s, lacking in zip(suggestions, ALL.values(), strict=True))
    said = "\n".join(line for suggestion in suggestions for line in suggestion.lines)
    for expected in (
        "requests of 'train' have 4 to 6 of them",
        "'train' has 106 exposed candidates of 12 items",
        "'train' has 106 exposed candidates of 10 users",
        "  item_buy_rate: {kind: prior, by: [item_id], label: buy, every: 1d}",
        "  user_buy_rate: {kind: prior, by: [user_id], label: buy, every: 1d}",
        "and 0% of the candidates of the last split are items that training never saw",
        "40 of 40 requests of 'train' have several candidates, which differ by match, price",
        "'train' has 40 candidates with 'buy' of 10 users, and 100% of the candidates of the last split",
        "  history_count: {kind: count, of: [history, item_id]}\n"
        "  history_since: {kind: since, of: [history, item_id], buckets: 16, dim: 4}",
        "47% of the candidates of 'train' were shown to their user before",
        "  shown: {side: user, kind: ids, of: item_id, input: false, last: 200}\n"
        "  shown_count: {kind: count, of: [shown, item_id]}\n"
        "  shown_since: {kind: since, of: [shown, item_id], buckets: 16, dim: 4}",
        "the log has the column 'position' with 0 to 2",
        "93 of 199 candidates of 'train' were cut",
        "  - {kind: unexposed, stage: prerank, label: buy, from: [retrieved], per_request: 10, weight: 0.2}\n"
        "  - {kind: in_batch, stage: prerank, label: buy, weight: 0.05, temperature: 2}",
    ):
        assert expected in said


@pytest.mark.parametrize("number", range(len(ALL)), ids=ALL)
def test_pasted_lines_make_a_config_that_lacks_it_no_more(config: Path, number: int) -> None:
    before = suggest(config)
    by_option = suggest(config, *before[number].overrides)
    paste(config, before[number])
    left = [suggestion for n, suggestion in enumerate(before) if n != number]
    assert suggest(config) == by_option == left


def test_the_command_prints_lines_to_paste_and_training_does_not(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = run_corank(capsys, "check", config)
    assert code == 0
    assert "\n  item_buy_rate: {kind: prior, by: [item_id], label: buy, every: 1d}\n" in text
    text = run_corank(capsys, "check", config, "--all")[1]
    assert "advice: data: no position on the page (data.position)" in text
    said: list[str] = []
    report_findings(corank.check(config).findings, said.append)
    assert not any("position" in line for line in said)


def test_candidates_that_are_in_a_history_are_looked_for_in_it(config: Path) -> None:
    """Of a history of the log, one of a list of the log, without times, and an item's category."""
    folder = config.parent
    log, together = pl.read_parquet(folder / "log.parquet"), pl.col("item_id").implode().over("request_id")
    log.with_columns(past=together).write_parquet(folder / "log.parquet")
    items = pl.DataFrame({"item_id": range(120), "brand": [n % 12 for n in range(120)]})
    items.with_columns(price=pl.col("brand") * 1.0).write_parquet(folder / "items.parquet")
    added = [
        "features.brand={side: item, kind: id}",
        "features.bought={side: user, kind: ids, of: item_id, event: buy}",
        "features.past={side: user, kind: ids, of: item_id}",
        "features.past.column=past",
    ]

    def recurring(*overrides: str) -> list[Finding]:
        return [s for s in suggest(config, *overrides) if "(kind: count, kind: since)" in s.what]

    bought, past, shown = recurring(*added)
    assert "'bought'" in bought.what and "'past'" in past.what and "shown" in shown.what
    ranges = "buckets: 16, dim: 4}"
    since = bought.paste["features.bought_brand_since"]
    assert since == f"{{kind: since, of: [bought.brand, brand], {ranges}"
    assert ": 100% of the candidates" in past.what
    since = past.paste["features.past_since"]
    assert since == f"{{kind: since, of: [past, item_id], measure: events, {ranges}"
    assert recurring(*added, *bought.overrides, *past.overrides, *shown.overrides) == []
    assert len(recurring(*added, "features.seen={kind: contains, of: [past, item_id]}")) == 2


def test_who_no_loss_of_trees_can_teach_is_taught_by_trees_of_other_rows(config: Path) -> None:
    trees = [
        "stages.1={name: rank, model: trees, keep: 1, labels: [buy], value: buy}",
        "losses=[{kind: click, stage: prerank, label: buy}]",
    ]

    def advised(changes: list[str]) -> list[str]:
        findings = corank.check(config, changes).document()["findings"]
        return [one["finding"] for one in findings if "teach that" in one["finding"]]

    (line,) = advised(trees)
    options = re.findall(r"--set '([^']+)'", line)
    assert "'prerank'" in line and len(options) == 2
    assert not advised([*trees, *options]) and not advised([])
