"""Pages by trying all of them, and rules as anybody would count them: the reference for `corank.core.page_rules`.

And pages of the test split of a world as they are evaluated, next to those that are served.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import permutations

import numpy as np

from corank.core.page import PageRule, PageSettings
from corank.core.page_rules import RuleValues
from corank.core.settings import validate
from corank.core.types import Doubles
from corank.evaluation.inputs import CascadeRows
from corank.evaluation.item_parts import part_of_candidates
from corank.evaluation.pages import fill_pages
from corank.funnel.page_stage import PageStage
from tests.support.cases import Case


def slots_that_break(rule: RuleValues, page: Sequence[int]) -> list[bool]:
    """Whether each slot of a page breaks a rule."""
    within = min(rule.within or len(page), len(page))
    values = [{v for v in rule.codes[n].tolist() if v >= 0} for n in page]
    broken = []
    for slot in range(len(page)):
        window = values[max(0, slot - within + 1) : slot + 1]
        if rule.kind == "at_most":
            broken.append(any(sum(v in one for one in window) > rule.number for v in values[slot]))
        elif rule.kind == "at_least":
            broken.append(slot >= within - 1 and sum(map(bool, window)) < min(rule.number, within))
        else:
            broken.append(slot == rule.number - 1 and bool(values[slot]) == rule.never)
    return broken


def cost(rules: Sequence[RuleValues], page: Sequence[int]) -> tuple[int, ...]:
    """Slots that break some rule, then those that break each."""
    by_rule = [slots_that_break(rule, page) for rule in rules]
    return (sum(map(any, zip(*by_rule, strict=True))), *map(sum, by_rule))


def least_cost(rules: Sequence[RuleValues], count: int, slots: int) -> tuple[int, ...]:
    """That of all pages."""
    return min(cost(rules, page) for page in permutations(range(count), slots))


def greedy_page(rules: Sequence[RuleValues], value: Doubles, slots: int) -> tuple[int, ...]:
    """Among the pages that keep all rules the one whose slots have, one after the other, the best value."""
    pages = [page for page in permutations(range(len(value)), slots) if not any(cost(rules, page))]
    return min(pages, key=lambda page: [(-value[n], n) for n in page])


def random_rule(rng: np.random.Generator, count: int, slots: int) -> RuleValues:
    """Draw a rule, and what candidates have."""
    kind = rng.choice(["at_most", "at_least", "slot"], p=[0.5, 0.25, 0.25])
    codes = rng.integers(-1, rng.integers(1, 5), (count, rng.choice([1, 1, 2, 3])))
    if rng.random() < 0.3:
        codes = np.where(rng.random((count, 1)) < rng.random(), 0, -1)
    if kind == "slot":
        return RuleValues("slot", int(rng.integers(1, slots + 2)), None, bool(rng.random() < 0.5), codes)
    within = None if rng.random() < 0.4 else int(rng.integers(1, slots + 3))
    return RuleValues(kind, min(int(rng.integers(1, 3)), within or 2), within, False, codes)


def draw_page(rng: np.random.Generator) -> PageSettings:
    """A page of random rules, over the features that the world's page reads."""

    def rule() -> PageRule:
        within = {} if rng.random() < 0.4 else {"within": int(rng.integers(1, 5))}
        match rng.integers(4):
            case 0:
                return PageRule(
                    at_most=int(rng.integers(1, 3)), of=str(rng.choice(["item_0", "item_2"])), **within
                )
            case 1:
                return PageRule(at_most=1, of="item_1", **within)
            case 2:
                return PageRule(at_least=1, of=str(rng.choice(["item_0", "item_1", "item_2"])), **within)
        of = str(rng.choice(["item_0", "item_1", "item_2"]))
        return PageRule(slot=int(rng.integers(1, 4)), of=of, never=bool(rng.random() < 0.5))

    method = str(rng.choice(["value", "mmr", "dpp"]))
    by = (
        {} if method == "value" else {"by": str(rng.choice(["prerank.vector", "item_0", "item_2", "item_3"]))}
    )
    rules = [rule() for _ in range(rng.integers(4))]
    page = {"name": "page", "keep": int(rng.integers(1, 5)), "method": method, "rules": rules}
    return validate(PageSettings, page | by, "page")


def both_pages(
    case: Case, rows: CascadeRows, page: PageSettings
) -> Iterator[tuple[list[object], list[object]]]:
    """The items of each request of the test split, slot by slot: as they are evaluated, and as they are served."""
    requests = rows.predictions.requests
    asked = [case.request("test", n) for n in range(len(requests.size))]
    part = partial(part_of_candidates, case.model, case.packed, "test", "prerank.vector")
    funnel = case.funnel.with_changes(1, "")
    funnel._page, funnel._quotas = PageStage(page, funnel.schema), funnel._quotas | {"page": page.keep}
    offline = fill_pages(page, case.packed, "test", rows, part)
    for n, answer in enumerate(funnel.rank_many(asked)):
        assert isinstance(answer, dict)
        first = int(requests.start[n])
        slot = offline.slot[first : first + requests.size[n]]
        ids = [one["id"] if isinstance(one, dict) else one for one in asked[n]["candidates"]]
        expected = [ids[at] for at in np.argsort(slot, kind="stable") if slot[at] >= 0]
        yield expected, [item["id"] for item in answer["items"]]
