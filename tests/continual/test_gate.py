"""Conditions of the gate: their syntax, and when they are met."""

import pytest

from corank.core.errors import ConfigError
from corank_continual.periods.gate import Condition

AUC = "rank.exposed.click.auc"


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        (f"{AUC} >= 0.7", 0.7, True),
        (f"{AUC} >= 0.7", 0.699, False),
        (f"{AUC} <= .7", 0.71, False),
        (f"{AUC} >= live - 0.002", 0.6481, True),
        (f"{AUC}  >=  live - 0.002", 0.6479, False),
        (f"{AUC} <= live + 1e-2", 0.661, False),
        (f"{AUC} in [0.6, 0.7]", 0.59, False),
    ],
)
def test_a_condition_compares_with_a_number_or_the_live_run(text: str, value: float, met: bool) -> None:
    assert Condition.parse(text).check({AUC: value}, {AUC: 0.65}).met is met


def test_without_a_live_run_what_compares_with_it_holds() -> None:
    assert Condition.parse(f"{AUC} >= live - 0.002").check({AUC: 0.1}, None).met
    assert not Condition.parse(f"{AUC} >= 0.5").check({AUC: 0.1}, None).met


@pytest.mark.parametrize(
    ("earlier", "met"),
    [
        ([], True),
        ([{}, {"rank.exposed.click.gauc": 0.9}], True),
        ([{AUC: 0.70}], False),
        ([{AUC: 0.70}, {AUC: 0.66}, {AUC: 0.60}], True),
        ([{AUC: 0.50}, *[{AUC: 0.70}] * 4, *[{AUC: 0.50}] * 3], False),
    ],
    ids=["none", "none that has the figure", "one", "their median", "of seven"],
)
def test_a_floor_is_the_median_of_earlier_periods(earlier: list[dict[str, float]], met: bool) -> None:
    condition = Condition.parse(f"{AUC} >= median - 0.05")
    assert condition.check({AUC: 0.62}, {AUC: 0.3}, earlier).met is met
    assert Condition.parse(f"{AUC} <= median + 0.05").check({AUC: 0.62}, None, [{AUC: 0.5}]).met is False


def test_a_figure_that_is_not_defined_any_more_is_not_met() -> None:
    checked = Condition.parse(f"{AUC} >= live - 0.002").check({}, {AUC: 0.65})
    assert not checked.met and checked.describe() == f"{AUC} >= live - 0.002: not defined, live 0.6500"


def test_a_figure_that_an_earlier_release_named_otherwise_is_not_met_and_names_the_new_one() -> None:
    old, new = "cascade.click_recall@50", "prerank.cut.click_recall@50"
    checked = Condition.parse(f"{old} >= median - 0.01").check(
        {new: 0.8, AUC: 0.6}, {new: 0.8}, [{old: 0.8, AUC: 0.6}]
    )
    assert not checked.met
    assert checked.describe() == f"{old} >= median - 0.01: not defined (now {new}?), median 0.8000"


def test_a_figure_that_there_is_none_of_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"gate: unknown figure 'rank.click.auc'; .* mean 'rank.exposed"):
        Condition.parse("rank.click.auc >= 0.5").check({AUC: 0.6}, None)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "auc",
            "auc > 0.5",
            "auc >= dead",
            "auc in [2, 1]",
            "auc >= live * 2",
            "auc >= mean",
            "a b >= 1",
        ),
        *("auc >= 1e400", "auc <= live + 1e400", "auc in [0, 1e400]"),
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"auc|expected a condition"):
        Condition.parse(text)


def test_a_figure_that_the_log_cannot_tell_is_not_met_and_says_why() -> None:
    condition, why = (
        Condition.parse("cascade.ips_click_rate@10 >= live - 0.01"),
        "effective sample 31 of 1,240",
    )
    checked = condition.check({AUC: 0.6}, {AUC: 0.6}, reasons={"cascade.ips_click_rate@10": why})
    assert not checked.met and checked.describe() == f"{condition.text}: {why}"
    assert condition.check({AUC: 0.6}, None, reasons={"cascade.ips_click_rate@10": why}).met
