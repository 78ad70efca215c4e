import json
from typing import Any

import pytest

from corank.bundle.manifest import BundleManifest
from corank.core.artifact import canonical
from corank.core.errors import ConfigError, RequestError
from corank.core.page import PageSettings
from corank.core.settings import validate
from corank.funnel.funnel import Funnel
from corank.funnel.page_stage import PageStage
from tests.support.cases import Case
from tests.support.parity import json_columns
from tests.support.random_worlds import PAGED
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(PAGED)


def ask(case: Case, **fields: Any) -> dict[str, Any]:
    """A request whose candidates are all items of the catalogue."""
    ids = case.items["item_id"].to_list()
    return case.request("test", 0) | {"candidates": ids} | fields


def with_page(funnel: Funnel, **keys: Any) -> Funnel:
    """The funnel with another page."""
    page = validate(PageSettings, {"name": "page", "model": "page", "keep": 4} | keys, "page")
    other = funnel.with_changes(funnel.manifest.items_seq, funnel.manifest.items_id)
    other.manifest = other.manifest.model_copy(update={"page": page})
    other._page, other._quotas = PageStage(page, funnel.schema), funnel._quotas | {"page": page.keep}
    return other


def test_the_answer_is_the_page(case: Case) -> None:
    by_value = with_page(case.funnel)
    plain = by_value.rank(ask(case, trace=True))
    assert plain["items"] == sorted(plain["items"], key=lambda item: -item["score"])
    paged = case.funnel.rank(ask(case, trace=True))
    assert len(paged["items"]) == 4 and paged["stage"] == "rank"
    trace = {entry["id"]: entry for entry in paged["trace"]}
    reached = [entry for entry in paged["trace"] if "page" in entry["stages"]]
    assert len(reached) == 8
    for slot, item in enumerate(paged["items"], 1):
        assert trace[item["id"]]["stages"]["page"]["rank"] == slot and trace[item["id"]]["cut"] is None
        assert trace[item["id"]]["stages"]["page"]["score"] == item["score"]
    assert {entry["cut"] for entry in reached} == {None, "page"}
    assert sorted(entry["stages"]["page"]["rank"] for entry in reached) == [*range(1, 9)]


def test_a_trace_says_what_moved_a_candidate(case: Case) -> None:
    page = {
        "rules": [{"at_most": 1, "of": "item_2", "within": 2}, {"at_most": 1, "of": "item_0", "within": 3}]
    }
    moved = 0
    for number in range(6):
        request = case.request("test", number) | {"candidates": ask(case)["candidates"], "trace": True}
        answer = with_page(case.funnel, **page).rank(request)
        entries = {e["id"]: e["stages"]["page"] for e in answer["trace"] if "page" in e["stages"]}
        value = {id_: entry["score"] for id_, entry in entries.items()}
        at_slot = {entry["rank"]: id_ for id_, entry in entries.items()}
        for id_, entry in entries.items():
            lower = [slot for slot in range(1, min(entry["rank"], 5)) if value[at_slot[slot]] < value[id_]]
            assert ("moved" in entry) == bool(lower)
            if lower:
                moved += 1
                assert entry["moved"]["slot"] == lower[0]
                assert entry["moved"]["rule"] in (
                    "at most 1 of item_2 within 2",
                    "at most 1 of item_0 within 3",
                    None,
                )
                assert entry["moved"]["neighbour"] is None
    assert moved


def test_similar_neighbours_are_named(case: Case) -> None:
    answer = with_page(case.funnel, method="dpp", by="prerank.vector", strength=0.99).rank(
        ask(case, trace=True)
    )
    entries = {e["id"]: e["stages"]["page"] for e in answer["trace"] if "page" in e["stages"]}
    moved = [entry["moved"] for entry in entries.values() if "moved" in entry]
    assert moved and all(one["neighbour"] in entries and one["rule"] is None for one in moved)


@pytest.mark.parametrize("by", ["prerank.vector", "item_3", "item_2", "item_0"])
@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_similarity_may_be_of_a_part_a_vector_an_id_or_a_list(case: Case, by: str, method: str) -> None:
    answer = with_page(case.funnel, method=method, by=by).rank(ask(case))
    assert len({item["id"] for item in answer["items"]}) == 4


def test_pages_of_many_requests_are_those_of_each(case: Case) -> None:
    requests = [case.request(split, n) for split in ("train", "test") for n in range(5)]
    requests += [
        ask(case),
        ask(case, keep={"page": 2}),
        ask(case, keep={"rank": 3}),
        ask(case, keep={"page": 50}),
    ]
    together = case.funnel.rank_many(requests)
    for request, answer in zip(requests, together, strict=True):
        assert isinstance(answer, dict)
        assert [one["id"] for one in answer["items"]] == [
            one["id"] for one in case.funnel.rank(request)["items"]
        ]
    assert [len(answer["items"]) for answer in together[-3:]] == [2, 3, 8]  # type: ignore[index]


def test_items_that_are_described_are_on_pages_and_under_rules(case: Case) -> None:
    item = json_columns(case.items, 0)
    described = [item | {"id": id_} for id_ in (901, 902, 903)]
    rules = [{"at_most": 1, "of": "item_2"}]
    answer = with_page(case.funnel, rules=rules).rank(ask(case, candidates=described, trace=True))
    assert len(answer["items"]) == 3  # all have one value: the rule is broken where no page keeps it
    broken = [entry["stages"]["page"].get("broken") for entry in answer["trace"]]
    kept = item["item_2"] is None
    assert sorted(map(str, broken)) == (["None"] * 3 if kept else ["None"] + ["['at most 1 of item_2']"] * 2)


@pytest.mark.parametrize("by", ["prerank.vector", "item_3", "item_2"])
def test_items_that_lack_what_a_page_reads_are_on_it(case: Case, by: str) -> None:
    item = json_columns(case.items, 0)
    without = {name: item[name] for name in item if name not in ("item_0", "item_1", "item_2", "item_3")}
    nothing = item | {"item_3": None}
    described = [without | {"id": 901}, nothing | {"id": 902}, item | {"id": 903}]
    rules = [{"at_most": 1, "of": "item_2"}, {"at_least": 1, "of": "item_1"}, {"slot": 1, "of": "item_0"}]
    page = with_page(case.funnel, method="dpp", by=by, rules=rules)
    answer = page.rank(ask(case, candidates=described))
    assert {item["id"] for item in answer["items"]} == {901, 902, 903}
    wrong = item | {"id": 904, "item_3": [float("nan")] * len(item["item_3"])}
    with pytest.raises(RequestError, match="item_3"):
        page.rank(ask(case, candidates=[*described, wrong]))


def test_one_candidate_or_none_is_a_page(case: Case) -> None:
    ids = ask(case)["candidates"]
    assert [item["id"] for item in case.funnel.rank(ask(case, candidates=ids[:1]))["items"]] == ids[:1]
    assert case.funnel.rank(ask(case, candidates=[10**9]))["items"] == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"keep": 9}, "page.keep: 'page' would fill 9 slots from the 8 that 'rank' leaves it"),
        ({"rules": [{"at_most": 1, "of": "none"}]}, "page.rules.0.of: unknown item feature 'none'"),
        ({"by": "prerank.nothing", "method": "dpp"}, "page.by: no item part 'prerank.nothing'"),
        ({"by": "item_id", "method": "dpp"}, "page: of 'item_id' items have nothing that it could read"),
        ({"strength": 7}, "strength"),
        ({"slots": 7}, "unknown key 'slots'"),
    ],
)
def test_a_bundle_whose_page_does_not_fit_is_refused(case: Case, page: dict[str, Any], message: str) -> None:
    plain = json.loads(canonical(case.funnel.manifest.model_dump(mode="json", by_alias=True)))
    plain["page"] |= page
    with pytest.raises(ConfigError, match=message):
        validate(BundleManifest, plain, "bundle")


def test_a_bundle_without_a_page_says_nothing_of_one(case: Case) -> None:
    manifest = case.funnel.manifest.model_copy(update={"page": None})
    assert "page" not in manifest.model_dump(mode="json", by_alias=True)
