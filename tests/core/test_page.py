from typing import Any

import numpy as np
import pytest

from corank.core.errors import ConfigError
from corank.core.page import PageCandidates, PageSettings, explain_page, fill_page, unit_vectors
from corank.core.page_rules import RuleValues
from corank.core.settings import validate
from corank.core.types import Doubles
from tests.support.pages import cost, greedy_page, least_cost, random_rule, slots_that_break


def settings(**keys: Any) -> PageSettings:
    return validate(PageSettings, {"name": "page", "model": "page", "keep": 10, **keys}, "page")


def fill(value: list[float] | Doubles, rules: list[RuleValues], **keys: Any) -> list[int]:
    page = fill_page(settings(**keys), PageCandidates(np.asarray(value), None, rules))
    return [int(n) for n in page.slots]


def at_most(number: int, values: list[Any], within: int | None = None) -> RuleValues:
    lists = [value if isinstance(value, list) else [value] for value in values]
    width = max(map(len, lists))
    return RuleValues(
        "at_most", number, within, False, np.array([one + [-1] * (width - len(one)) for one in lists])
    )


def flags(
    kind: Any, number: int, has: list[int], within: int | None = None, never: bool = False
) -> RuleValues:
    return RuleValues(kind, number, within, never, np.array(has)[:, None] - 1)


def test_the_page_is_by_value_unless_rules_say_otherwise() -> None:
    assert fill([0.2, 0.5, 0.5, 0.9], []) == [3, 1, 2, 0]
    assert fill([0.2, 0.5, 0.5, 0.9], [], keep=2) == [3, 1]
    assert fill([], []) == []


def test_rules_that_cannot_be_kept_are_broken_by_the_fewest_slots_the_later_first() -> None:
    alike = at_most(1, [0, 0, 0])
    page = fill_page(settings(keep=3), PageCandidates(np.array([3.0, 2.0, 1.0]), None, [alike]))
    assert page.slots.tolist() == [0, 1, 2] and page.broken == [(1, 0), (2, 0)]
    ads = [flags("slot", 1, [1, 0], never=True), flags("slot", 1, [1, 0])]
    for rules, first, broken in ((ads, 1, 1), (ads[::-1], 0, 1)):
        page = fill_page(settings(keep=1), PageCandidates(np.array([1.0, 2.0]), None, rules))
        assert page.slots.tolist() == [first] and page.broken == [(0, broken)]


def check_against_all_pages(rng: np.random.Generator, most: int) -> bool:
    count = int(rng.integers(1, most + 1))
    slots = int(rng.integers(1, count + 1))
    rules = [random_rule(rng, count, slots) for _ in range(rng.integers(1, 5))]
    value = rng.random(count).round(1)
    page = fill_page(settings(keep=slots), PageCandidates(value, None, rules))
    found, least = page.slots.tolist(), least_cost(rules, count, slots)
    assert cost(rules, found) == least
    broken = [slots_that_break(rule, found) for rule in rules]
    assert page.broken == [(s, r) for s in range(slots) for r in range(len(rules)) if broken[r][s]]
    if not any(least):
        assert tuple(found) == greedy_page(rules, value, slots)
    return any(least)


def test_rules_are_broken_only_where_no_page_keeps_them() -> None:
    rng = np.random.default_rng(0)
    assert 10 < sum(check_against_all_pages(rng, 5) for _ in range(200)) < 190


@pytest.mark.thorough
def test_rules_are_broken_only_where_no_page_of_eight_keeps_them() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        check_against_all_pages(rng, 8)


def similarities(vectors: Doubles, strength: float = 1.0) -> Doubles:
    return (1 - strength) * np.eye(len(vectors)) + strength * vectors @ vectors.T


def by_determinants(value: Doubles, vectors: Doubles, strength: float, slots: int) -> list[int]:
    kernel = value[:, None] * similarities(vectors, strength) * value
    page: list[int] = []
    for _ in range(slots):
        left = [n for n in range(len(value)) if n not in page]
        page.append(max(left, key=lambda n: float(np.linalg.det(kernel[np.ix_([*page, n], [*page, n])]))))
    return page


def test_dpp_takes_what_makes_the_determinant_the_largest() -> None:
    rng = np.random.default_rng(0)
    for strength in (0.0, 0.3, 0.9):
        value, vectors = rng.random(30) + 0.1, unit_vectors(rng.normal(size=(30, 8)))
        chosen = settings(keep=6, method="dpp", by="prerank.vector", strength=strength)
        page = fill_page(chosen, PageCandidates(value, vectors, [])).slots.tolist()
        assert page == by_determinants(value, vectors, strength, 6)


def test_mmr_weighs_value_against_the_nearest_on_the_page() -> None:
    rng = np.random.default_rng(0)
    value, vectors = rng.random(30), unit_vectors(rng.normal(size=(30, 4)))
    chosen = settings(keep=6, method="mmr", by="prerank.vector", **{"lambda": 0.6})
    alike, page = similarities(vectors), list[int]()
    for _ in range(6):
        left = [n for n in range(30) if n not in page]
        near = {n: max((alike[n, m] for m in page), default=0.0) for n in left}
        page.append(max(left, key=lambda n: 0.6 * value[n] / value.max() - 0.4 * near[n]))
    assert fill_page(chosen, PageCandidates(value, vectors, [])).slots.tolist() == page


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_any_value_and_any_vector_gives_a_page(method: str) -> None:
    chosen = settings(keep=3, method=method, by="prerank.vector")
    same = unit_vectors(np.ones((5, 4)))
    for value in (np.zeros(5), np.full(5, -2.0), np.array([1e-300, 1e300, 0.0, -1e300, 1.0]), np.ones(5)):
        for vectors in (
            same,
            np.zeros((5, 4)),
            unit_vectors(np.full((5, 4), np.nan)),
            unit_vectors(np.eye(5)),
        ):
            page = fill_page(chosen, PageCandidates(value, vectors, []))
            assert len(set(page.slots.tolist())) == 3
            assert page.slots[0] == value.argmax()
    assert fill_page(chosen, PageCandidates(np.ones(1), same[:1], [])).slots.tolist() == [0]


def test_methods_keep_rules_too() -> None:
    rng = np.random.default_rng(3)
    for method in ("mmr", "dpp"):
        for _ in range(20):
            rules = [random_rule(rng, 7, 4) for _ in range(2)]
            candidates = PageCandidates(rng.random(7), unit_vectors(rng.normal(size=(7, 2))), rules)
            page = fill_page(settings(keep=4, method=method, by="prerank.vector"), candidates)
            assert cost(rules, page.slots.tolist()) == least_cost(rules, 7, 4)


def test_what_moved_a_candidate_is_said() -> None:
    value = np.array([5.0, 4.0, 3.0, 2.0])
    category = at_most(1, [0, 0, 1, 2], within=2)
    candidates = PageCandidates(value, None, [category])
    chosen = settings(keep=3)
    page = fill_page(chosen, candidates)
    assert page.slots.tolist() == [0, 2, 1]
    assert explain_page(chosen, candidates, page) == {1: (1, 0, None)}
    twins = PageCandidates(value, unit_vectors(np.array([[1, 0], [1, 0], [0, 1], [1, 1]])), [])
    chosen = settings(keep=2, method="dpp", by="prerank.vector", strength=0.9)
    page = fill_page(chosen, twins)
    assert page.slots.tolist() == [0, 2]
    assert explain_page(chosen, twins, page) == {1: (1, None, 0)}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "dpp"}, "method: dpp needs by"),
        ({"by": "category"}, "by has no effect with method: value"),
        ({"method": "mmr", "by": "category", "strength": 0.5}, "strength has no effect with method: mmr"),
        ({"method": "dpp", "by": "category", "lambda": 0.5}, "lambda has no effect with method: dpp"),
        ({"method": "dpp", "by": "category", "strength": 1.0}, "strength: Input should be less than 1"),
        (
            {"rules": [{"of": "category"}]},
            "rules.0: a rule has one of at_most, at_least and slot; received neither",
        ),
        ({"rules": [{"of": "a", "at_most": 1, "slot": 2}]}, "received at_most and slot"),
        ({"rules": [{"of": "a", "at_most": 1, "never": True}]}, "never goes with slot"),
        ({"rules": [{"of": "a", "slot": 1, "within": 3}]}, "within has no effect with slot"),
        ({"rules": [{"of": "a", "at_least": 3, "within": 2}]}, "at_least 3 cannot be within 2 slots"),
        ({"keep": 0}, "keep"),
        ({"hidden": [3]}, "unknown key 'hidden'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**keys)
