"""Suggestions and recipes of `corank check`: reasons, lines to paste, gains elsewhere, shipped configs."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.datasets.feed.simulate import simulate_world
from corank.training.checks.guidance import GAINS, RECIPES, Suggestion
from corank.training.config.yaml_values import read_yaml_file
from tests.support.command_line import run_corank

ROOT = Path(corank.__file__).parent.parent
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
ALL = ["candidates", "prior", "prior", "age", "within", "history", "position", "unexposed"]


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


def suggest(config: Path, *overrides: str) -> list[Suggestion]:
    return list(corank.check(config, overrides).profile.suggestions)


def kinds(config: Path, *overrides: str) -> list[str]:
    return [suggestion.kind for suggestion in suggest(config, *overrides)]


def paste(config: Path, *suggestions: Suggestion) -> None:
    """Put the lines that are printed below the key that is printed."""
    text = config.read_text()
    for suggestion in suggestions:
        said, *lines = str(suggestion).split("\n")
        key = said.rpartition("under `")[2].removesuffix("`:")
        # what losses have is a list, to which the line is added
        before, begin, after = text.partition(f"\n{key}:\n")
        assert begin and lines
        first, *rest = after.split("\n") if key == "losses" else ["", *after.split("\n")]
        text = before + begin + "\n".join([*filter(None, [first]), *lines, *rest])
    config.write_text(text)


def test_a_log_that_asks_for_all_gets_all(config: Path) -> None:
    suggestions = suggest(config)
    assert [suggestion.kind for suggestion in suggestions] == ALL
    said = "\n".join(map(str, suggestions))
    for expected in (
        "requests of 'train' have 4 to 6 of them",
        "'train' has 106 exposed candidates of 12 items",
        "'train' has 106 exposed candidates of 10 users",
        "  item_buy_rate: {kind: prior, by: [item_id], label: buy, every: 1d}",
        "  user_buy_rate: {kind: prior, by: [user_id], label: buy, every: 1d}",
        "and 0% of the candidates of the last split are items that training never saw",
        "40 of 40 requests of 'train' have several candidates, which differ by match, price",
        "'train' has 40 candidates with 'buy' of 10 users, and 100% of the candidates of the last split",
        "the log has the column 'position' with 0 to 2",
        "93 of 199 candidates of 'train' were cut",
        "  - {kind: unexposed, stage: prerank, label: buy, from: [retrieved], per_request: 10, weight: 0.2}\n"
        "  - {kind: in_batch, stage: prerank, label: buy, weight: 0.05, temperature: 2}",
    ):
        assert expected in said


@pytest.mark.parametrize("number", range(len(ALL)), ids=[f"{n} {kind}" for n, kind in enumerate(ALL)])
def test_pasted_lines_make_a_config_that_lacks_it_no_more(config: Path, number: int) -> None:
    before = suggest(config)
    by_option = suggest(config, *before[number].overrides)
    paste(config, before[number])
    left = [suggestion for n, suggestion in enumerate(before) if n != number]
    assert suggest(config) == by_option == left


Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.mark.parametrize(
    ("change", "quiet"),
    [
        (lambda log: log.filter(pl.col("match") < 4), "candidates"),
        (lambda log: log.filter(pl.col("match") < 1), "within"),
        (
            lambda log: log.with_columns(item_id=pl.int_range(pl.len()) % ITEMS + 12 * pl.col("request_id")),
            "history",
        ),
        (lambda log: log.with_columns(position=pl.col("position") - 5), "position"),
        (lambda log: log.filter(pl.col("level") == "exposed"), "unexposed"),
    ],
)
def test_a_log_that_does_not_ask_gets_none(config: Path, change: Change, quiet: str) -> None:
    path = config.parent / "log.parquet"
    changed = change(pl.read_parquet(path))
    changed.write_parquet(path)
    items = changed.select("item_id").unique().with_columns(price=pl.col("item_id") * 1.0)
    items.write_parquet(config.parent / "items.parquet")
    suggested = kinds(config)
    assert quiet not in suggested and "age" not in suggested and suggested


def test_what_a_network_could_not_read_is_not_suggested(config: Path) -> None:
    towers = ["stages.1={name: rank, model: towers, keep: 1, query: [4], item: [4], label: buy}"]
    assert "within" not in kinds(config, *towers, "features.match=null")


def test_ids_that_are_no_feature_are_declared_with_their_rate(config: Path) -> None:
    suggestions = suggest(
        config, "features.item_id=null", "features.user_id={side: user, kind: id, column: user_id}"
    )
    (item,) = [s for s in suggestions if s.kind == "prior" and "by item" in s.lacking]
    assert list(item.values) == ["features.item_id", "features.item_buy_rate"]
    assert "history" not in [suggestion.kind for suggestion in suggestions]


def test_the_command_prints_lines_to_paste_and_training_does_not(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = run_corank(capsys, "check", config)
    assert code == 0
    assert "\n  item_buy_rate: {kind: prior, by: [item_id], label: buy, every: 1d}\n" in text
    assert "advice: no position on the page (data.position)" in text
    said: list[str] = []
    corank.check(config).profile.report(said.append)
    assert not any("position" in line for line in said)


EXPECTED = {"prior", "age", "within", "position"}
"""What the config of a simulated world lacks, though its log asks for it."""


@pytest.mark.parametrize(
    ("losses", "suggested", "said"),
    [
        ([], ["unexposed", "in_batch"], "the config lacks unexposed, in_batch"),
        (
            ["{kind: unexposed, stage: prerank, label: buy, from: [retrieved]}"],
            ["in_batch"],
            "the config lacks in_batch",
        ),
        (["{kind: info_nce, stage: prerank, label: buy}"], [], "the config learns from them"),
        (
            [
                "{kind: unexposed, stage: prerank, label: buy, from: [retrieved]}",
                "{kind: in_batch, stage: prerank, label: buy}",
            ],
            [],
            "the config learns from them",
        ),
    ],
)
def test_a_log_with_levels_asks_for_losses_of_what_was_cut(
    config: Path, losses: list[str], suggested: list[str], said: str
) -> None:
    overrides = [f"losses.{number}={loss}" for number, loss in enumerate(losses, start=2)]
    profile = corank.check(config, overrides).profile
    lines = [line for s in profile.suggestions for key, line in s.values.items() if key.startswith("losses")]
    assert [line.partition(",")[0].removeprefix("{kind: ") for line in lines] == suggested
    assert re.match(
        r"\d+ of \d+ candidates of 'train' were cut: ", profile.recipe
    ) and profile.recipe.endswith(said)
    more = [f"losses.{number}={line}" for number, line in enumerate(lines, start=2 + len(losses))]
    assert corank.check(config, [*overrides, *more]).profile.recipe.endswith("the config learns from them")


def test_towers_without_vectors_are_offered_no_loss_over_vectors(config: Path) -> None:
    matched = ["features.place={kind: within, of: match}", "stages.0.matches=[place]"]
    profile = corank.check(config, matched).profile
    losses = {
        key: line for s in profile.suggestions for key, line in s.values.items() if key.startswith("losses")
    }
    assert list(losses) == ["losses.2"] and "unexposed" in losses["losses.2"]


def test_scores_that_nothing_reads_are_named(config: Path) -> None:
    path = config.parent / "log.parquet"
    pl.read_parquet(path).with_columns(score_rank=pl.lit(0.5)).write_parquet(path)
    assert "scores that nothing reads (score_rank): a teacher" in corank.check(config).profile.recipe
    read = corank.check(config, ["data.scores={rank_score: {column: score_rank}}"]).profile.recipe
    assert "scores" not in read


def test_a_log_of_exposures_asks_for_a_teacher(config: Path) -> None:
    path = config.parent / "log.parquet"
    pl.read_parquet(path).filter(pl.col("level") == "exposed").write_parquet(path)
    assert corank.check(config).profile.recipe.endswith("; the config lacks distill")
    taught = ["losses.2={kind: distill, teacher: rank, student: prerank, label: buy, on: [exposed]}"]
    assert corank.check(config, taught).profile.recipe.endswith("; the config has it")


def test_shipped_configs_get_true_advice_alone(tmp_path: Path) -> None:
    simulate_world(tmp_path / "world", requests=600, candidates=20, users=60, items=80)
    assert set(kinds(tmp_path / "world" / "config.yaml")) == EXPECTED
    for name, expected in {
        "features": {"age", "within"},
        "recipe_distilled": EXPECTED | {"in_batch"},
        "recipe_shared": EXPECTED | {"unexposed"},
        "three_stages": EXPECTED,
    }.items():
        path = tmp_path / "world" / f"{name}.yaml"
        path.write_text((ROOT / "examples" / f"{name}.yaml").read_text())
        assert set(kinds(path)) == expected, name


QUOTES = {
    "prior": ["| day-lagged rates and counts of user, video, author | +.0139 [+.0105, +.0174] |"],
    "age": ["Ages add .013 to .015."],
    "within": ["| `hotels`: rank of the price (`kind: within`), also a match | +.032 | +.072 |"],
    "history": ["| histories of clicks and long views | +.0021 [+.0007, +.0036] |"],
    "unexposed": [
        "| **shipped** | .2990 | .3456 | .3697 | .2781 |",
        "| clicks alone | .2921 | .3133 | .3123 | .2622 |",
    ],
    "in_batch": ["| `unexposed` .2 | +.0023 [+.0001, +.0045] |", "+.0046 [+.0019, +.0074]"],
}
"""Kind → text of the page of its gain that holds the figures."""


def test_each_gain_stands_on_its_page() -> None:
    assert {kind for kind, gain in GAINS.items() if gain} == QUOTES.keys()
    for kind, quotes in QUOTES.items():
        said, _, page = str(GAINS[kind]).removesuffix(")").rpartition(" (")
        text = (ROOT / page).read_text(encoding="utf-8")
        assert all(quote in text for quote in quotes), kind
        figures = re.findall(r"[+−]?\.\d+", said)
        assert figures and all(figure in " ".join(quotes) for figure in figures), kind


SHIPPED = {
    "examples/shop.yaml": "levels",
    "examples/features.yaml": "levels",
    "corank_lab/datasets/recflow_full.yaml": "levels",
    "examples/exposure_only.yaml": "exposures",
    "corank/datasets/kuairand.yaml": "exposures",
    "corank_lab/datasets/mind.yaml": "exposures",
    "corank_lab/datasets/ebnerd.yaml": "exposures",
}
"""Config → the kind of its log."""
OWN = {"from", "label", "weight", "warm_up", "form"}
"""Keys of losses that a log may have of its own: names of levels and labels, and what was chosen on it."""


def beside_clicks(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [loss for loss in value["losses"] if loss["kind"] != "click"]


def test_a_simulated_world_has_the_recipe_to_the_letter(tmp_path: Path) -> None:
    simulate_world(tmp_path, requests=20, candidates=20, users=10, items=40)
    value = read_yaml_file(tmp_path / "config.yaml")
    recipe = RECIPES["levels"]
    assert beside_clicks(value) == [dict(loss) for loss in recipe.losses]
    assert value["stages"][0]["feature_dropout"] == {"item_id": 0.3}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_has_the_losses_of_its_kind_of_log(name: str) -> None:
    value = read_yaml_file(ROOT / name)
    kind = SHIPPED[name]
    own = OWN if kind == "exposures" or name.startswith("corank") else {"label"}
    kept = [{k: v for k, v in loss.items() if k not in own} for loss in beside_clicks(value)]
    assert kept == [{k: v for k, v in loss.items() if k not in own} for loss in RECIPES[kind].losses]
    levels = value["data"].get("levels")
    assert (levels is not None) == (kind == "levels")
