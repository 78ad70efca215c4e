"""Findings of `corank check` and `train`: what counts most first, few lines, the same words."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from inspect import unwrap
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.testing.parts import registered
from corank.training.checks import learnability, log_quality, page_rules
from corank.training.checks.findings import FIRST, Finding
from corank.training.checks.judgements import JUDGEMENTS
from corank.training.checks.profile import Profile
from tests.support.command_line import run_corank
from tests.support.configs import ID, MARCH, NUMBER, of_side, small_config

LABELS = {name: {"column": f"is_{name}"} for name in ("click", "like")}
RANK = {"model": "mlp", "keep": 1, "hidden": [4], "labels": [*LABELS], "value": "click + like"}
DAYS, REQUESTS, SIZE, ITEMS = 3, 40, 6, 30
"""Requests are of each day."""
SHIFTED = [f"stock_{n}" for n in range(40)]
"""Columns of items that the items of the last day lack, to a share that grows with n."""
ALIKE = [f"fixed_{n}" for n in range(8)]
OTHERS = [f"price_{n}" for n in range(8)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 60 columns with little to learn, whose items live one day, and of which many columns are broken."""
    folder = tmp_path_factory.mktemp("wide")
    rows = []
    for number in range(DAYS * REQUESTS):
        day, n = divmod(number, REQUESTS)
        time = datetime(2026, 3, 1 + day, tzinfo=UTC) + timedelta(minutes=n)
        for k in range(SIZE):
            shown = ITEMS * day + (n + k) % ITEMS
            rows.append((number, n, shown, time, int(k == n % SIZE), int(k == 2 and n % 4 == 0)))
    columns = ["request_id", "user_id", "item_id", "time", "is_click", "is_like"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "log.parquet")
    item, last = pl.col("item_id"), pl.col("item_id") >= ITEMS * (DAYS - 1)
    stocks = [
        pl.when(last & (item % ITEMS <= n // 2 + 5)).then(None).otherwise(item * 1.0).alias(name)
        for n, name in enumerate(SHIFTED)
    ]
    prices = [(item * (n + 3) % 17 * 1.0).alias(name) for n, name in enumerate(OTHERS)]
    items = pl.DataFrame({"item_id": range(DAYS * ITEMS)})
    fixed = [pl.lit("en").alias(name) for name in ALIKE]
    items.with_columns(*stocks, *prices, *fixed).write_parquet(folder / "items.parquet")
    features = of_side("user", ID, "user_id") | of_side("item", ID, "item_id", *ALIKE)
    features |= of_side("item", NUMBER, *SHIFTED, *OTHERS)
    plain = small_config(features, MARCH | {"items": "items.parquet", "labels": LABELS})
    plain["stages"][1] |= RANK
    plain["losses"].append({"kind": "click", "stage": "rank", "label": "like"})
    (folder / "config.yaml").write_text(json.dumps(plain))
    return folder / "config.yaml"


def test_a_log_of_60_columns_takes_one_screen(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run_corank(capsys, "check", config)
    lines = text.splitlines()
    assert code == 0 and len(lines) <= 40
    begin = lines.index("Findings") + 1
    assert lines[begin].startswith("warning: train: training lasts for 5 steps")
    shifted = [line for line in lines if "missing in another share" in line]
    assert len(shifted) == 1 and shifted[0].startswith("advice: stock_38 (0% of 'train', but ")
    assert " and 36 more: missing" in shifted[0]
    assert sum("the same value in all training rows" in line for line in lines) <= 1
    assert lines[-1].endswith("the tables of features, losses, labels, values and requests: --all")


def test_all_findings_are_printed_and_in_the_document(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run_corank(capsys, "check", config, "--all")[1]
    document = json.loads(run_corank(capsys, "check", config, "--json")[1])
    assert "Which feature enters which tower" in text and "--all" not in text
    found = document["findings"]
    assert len(found) > FIRST - 4 and all(f"{one['severity']}: {one['finding']}" in text for one in found)
    (shifted,) = (one for one in found if "missing in another share" in one["finding"])
    assert sorted(shifted["where"]) == sorted(SHIFTED) and "stock_0 (0% of 'train', but 2" in text
    severities = [one["severity"] for one in found]
    assert severities == sorted(severities, key=["error", "warning", "advice"].index)


def test_train_says_what_check_says(config: Path, tmp_path: Path) -> None:
    said: list[str] = []
    corank.train(config, folder=tmp_path / "run", report=said.append)
    told = [finding.line for finding in corank.check(config).findings]
    assert [line for line in said if line.startswith(("warning: ", "advice: "))] == told[:FIRST]


def test_every_function_that_makes_findings_is_asked() -> None:
    """What a module of findings defines and returns them is in a list."""
    made = [
        function
        for module in (learnability, log_quality, page_rules)
        for name, function in vars(module).items()
        if getattr(function, "__module__", "") == module.__name__ and not name.startswith("_")
        if getattr(function, "__annotations__", {}).get("return") == Iterator[Finding]
    ]
    assert len(made) > 20 and {*made} == {*map(unwrap, JUDGEMENTS.parts().values())}


def dear(profile: Profile) -> Iterator[Finding]:
    values = profile.column("price_0").values
    yield Finding("error", "price_0", "too dear", f"{values} prices")


def test_a_new_finding_is_one_function(config: Path, tmp_path: Path) -> None:
    with registered(JUDGEMENTS, dear=dear):
        assert corank.check(config).findings[0] == Finding("error", "price_0", "too dear", "17 prices")
        with pytest.raises(DataError, match=r"^price_0 \(17 prices\): too dear$"):
            corank.train(config, folder=tmp_path / "run")
