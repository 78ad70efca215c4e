"""Features that read what happened after the request are refused; honest ones that go with it are not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.data.outcomes import why_outcome
from corank.training.checks.learnability import reads_outcomes
from corank.training.checks.log_profile import profile_log
from corank.training.config.config_file import read
from tests.support.outcome_logs import (
    OutcomeLog,
    draw_outcome_log,
    left_out_by_import,
    refused_by_check,
    write_log,
)

ROWS = 1000
CLICKED = np.arange(ROWS) % 10 == 0
FEW = np.arange(ROWS) % 20 == 0
"""Half of those that were clicked."""
DAY_MS = 86_400_000
TIMES = 1_772_000_000_000 + 1000 * np.arange(ROWS)
LATER = TIMES + 30_000 * CLICKED


@pytest.fixture(scope="module")
def log() -> OutcomeLog:
    return draw_outcome_log(300, seed=0)


@pytest.fixture(scope="module")
def drawn(log: OutcomeLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config of that log that reads every column."""
    folder = tmp_path_factory.mktemp("drawn")
    write_log(log, folder)
    return folder


def test_check_refuses_all_planted_outcomes_and_no_honest_column(log: OutcomeLog, drawn: Path) -> None:
    assert refused_by_check(drawn) == {*log.planted}


def test_an_import_leaves_out_all_planted_outcomes_and_no_honest_column(
    log: OutcomeLog, tmp_path: Path
) -> None:
    assert (len(log.planted), len(log.honest)) == (20, 40)
    assert left_out_by_import(log, tmp_path) == {*log.planted}
    config = read(tmp_path / "imported" / "config.yaml")
    assert profile_log(config, tmp_path / "imported").outcomes == {}


def nulls(values: Any, where: Any) -> pl.Series:
    return pl.Series(values).set(pl.Series(where), None)


OUTCOMES: dict[str, tuple[pl.Series, str]] = {
    "flag": (pl.Series(FEW), "it is 0 unless X"),
    "part": (pl.Series(FEW | (np.arange(ROWS) == 7)), "it is 0 unless X, but for 1 of 51 rows"),
    "null": (nulls(np.ones(ROWS), ~FEW), "it is missing unless X"),
    "zero or null": (nulls(1.0 * FEW, np.arange(ROWS) % 3 == 1), "it is 0 or missing unless X"),
    "usual": (pl.Series(np.where(FEW, 3, -1)), "it is -1 unless X"),
    "text": (pl.Series(np.where(FEW, "buy", "")), "it is blank unless X"),
    "not a number": (pl.Series(np.where(FEW, 2.5, np.nan)), "it is missing unless X"),
    "list": (pl.Series([[1] * int(few) for few in FEW]), "it is empty unless X"),
    "states": (
        pl.Series(np.where(CLICKED, "open", np.where(np.arange(ROWS) % 3, "seen", "skip"))),
        "alone it tells where X, with an AUC of 1.000",
    ),
    "number": (
        pl.Series(np.arange(ROWS) % 7 + 7.0 * CLICKED),
        "alone it tells where X, with an AUC of 1.000",
    ),
    "event": (
        pl.Series(LATER).cast(pl.Datetime("ms")),
        "counted from the time of the request, it is 0 unless X",
    ),
    "event_s": (pl.Series(LATER / 1000), "counted from the time of the request, it is 0 unless X"),
    "play_time": (
        pl.Series((np.arange(ROWS) * 7 % 10) + 3.0 * CLICKED * (np.arange(ROWS) % 3)),
        "alone it tells where X, with an AUC of",
    ),
}
HONEST: dict[str, pl.Series] = {
    "few rows": pl.Series(np.arange(ROWS) % 100 == 0),
    "four of five": pl.Series(FEW | (np.arange(ROWS) % 80 == 3)),
    "numbers": pl.Series((np.arange(ROWS) * 7 % 10) + 3.0 * CLICKED * (np.arange(ROWS) % 3)),
    "a page of what was clicked before": pl.Series(
        np.where(FEW, "saved", np.where(np.arange(ROWS) % 3, "home", "search"))
    ),
    "served": pl.Series(TIMES + 20).cast(pl.Datetime("ms")),
    "published": pl.Series(TIMES - DAY_MS * (np.arange(ROWS) % 9)).cast(pl.Datetime("ms")),
    "structs": pl.Series([{"a": int(clicked)} for clicked in CLICKED]),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_is_told_by_its_values(name: str) -> None:
    column, why = OUTCOMES[name]
    assert why_outcome(name, column, CLICKED, "X", TIMES).startswith(why)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_column_passes(name: str) -> None:
    assert why_outcome(name, HONEST[name], CLICKED, "X", TIMES) == ""


def test_few_clicks_prove_nothing() -> None:
    clicked = np.arange(ROWS) < 19
    assert why_outcome("bought", pl.Series(clicked), clicked, "X") == ""


@pytest.fixture(scope="module")
def narrow(drawn: Path) -> Path:
    """A config that reads one outcome of the candidates, one of the request, and a price."""
    kept = ("bought:", "session_clicked:", "price:", "item_id:")
    lines = (drawn / "config.yaml").read_text().splitlines()
    features = lines.index("features:")
    chosen = [line for line in lines[features + 1 :] if line.strip().startswith(kept)]
    path = drawn / "narrow.yaml"
    path.write_text("\n".join([*lines[: features + 1], *chosen, ""]))
    return path


def test_check_and_train_refuse_an_outcome_unless_it_is_named(narrow: Path, tmp_path: Path) -> None:
    faults = [finding for finding in corank.check(narrow).findings if finding.severity == "error"]
    assert [fault.where for fault in faults] == ["features.bought", "features.session_clicked"]
    said = str(faults[0])
    assert "'bought' looks like an outcome" in said and "it is 0 unless 'click' is 1" in said
    assert "write known_before: [bought]" in said
    run = tmp_path / "run"
    with pytest.raises(DataError, match=r"features\.bought: its column 'bought' looks like an outcome"):
        corank.train(narrow, folder=run)
    assert not run.exists()
    known = "known_before=[bought, session_clicked]"
    corank.check(narrow, [known]).require()
    packed = corank.pack(narrow).packed
    assert corank.pack(narrow, [known]).packed.manifest == packed.manifest, "packed anew"


def test_a_named_column_must_be_there(narrow: Path) -> None:
    with pytest.raises(DataError, match="boughtt"):
        corank.check(narrow, ["known_before=[boughtt]"])


def faults_with(narrow: Path, *overrides: str) -> Iterator[str]:
    found = reads_outcomes(profile_log(read(narrow, overrides), narrow.parent))
    return (str(fault).partition(",")[0] for fault in found)


def test_labels_and_values_are_judged_too(narrow: Path) -> None:
    named = "known_before=[bought, session_clicked]"
    label = "features.click={side: cross, kind: id, column: clicked}"
    assert [*faults_with(narrow, named, label)] == [
        "features.click: its column 'clicked' looks like an outcome"
    ]
    assert [*faults_with(narrow, named, "data.columns=[revenue, coupon]")] == [
        "data.columns: its column 'revenue' looks like an outcome"
    ]
    order = "data.labels.order={column: bought, given: click}"
    paid = "features.paid={side: cross, kind: number}"
    assert [*faults_with(narrow, "known_before=[session_clicked, paid]", order, paid)] == [
        "features.bought: its column 'bought' looks like an outcome"
    ]


def test_of_a_large_log_whole_requests_are_looked_at(narrow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corank.training.checks.outcome_columns.SAMPLE", 1500)
    assert len([*faults_with(narrow)]) == 2
