"""Retrieval in bundles: the nearest of what is live and passes, scored as if it had been given."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corank.core.errors import RequestError
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.config.config import Config
from corank.training.packed_data import pack_config
from tests.support.cases import Case, random_model
from tests.support.random_worlds import RICH
from tests.support.shared import shared_case


def retrieving(folder: Path, **more: Any) -> Case:
    """A case that retrieves 12 of its 16 items, with more features."""
    plain: dict[str, Any] = {**RICH, "cross": []}
    world = Case.of(folder, plain)
    config = world.config.model_dump(mode="json", by_alias=True)
    config["retrieval"] = {"stage": "prerank", "keep": 12}
    for feature in ("item_0", "item_2"):
        config["features"][feature]["filter"] = True
    config["features"] |= more
    checked = Config.model_validate(config | {"name": "retrieves"})
    packed = pack_config(checked, world.base)
    return replace(world, config=checked, packed=packed, model=random_model(checked, packed, plain["seed"]))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return retrieving(tmp_path_factory.mktemp("case"))


def asked(case: Case, number: int = 0, **more: Any) -> Request:
    request = case.request("test", number)
    del request["candidates"]
    return Request.parse(request | more)


def everyone(case: Case, funnel: Funnel, ids: list[int], number: int = 0) -> dict[int, float]:
    """The pre-ranker's logit of every item."""
    request = Request.parse(case.request("test", number) | {"candidates": ids})
    return dict(zip(ids, funnel.logits(request)["prerank"]["click"].tolist(), strict=True))


@pytest.mark.slow
def test_candidates_are_the_nearest_and_scored_as_if_given(case: Case) -> None:
    ids = case.items["item_id"].to_list()
    for number in range(2):
        request = asked(case, number, trace=True)
        answer = case.funnel.rank(request)
        logits = everyone(case, case.funnel, ids, number)
        best = sorted(ids, key=lambda id_: -logits[id_])[:12]
        candidates = [entry["id"] for entry in answer["trace"]]
        np.testing.assert_allclose([logits[i] for i in candidates], [logits[i] for i in best], atol=1e-6)
        expected = case.funnel.rank(
            Request.parse(case.request("test", number) | {"candidates": candidates, "trace": True})
        )
        assert answer == expected


@pytest.mark.slow
def test_requests_that_retrieve_are_ranked_with_others_as_alone(case: Case) -> None:
    requests = [asked(case, n, trace=True, **more) for n, more in enumerate(({}, {"retrieve": 3}))]
    requests += [asked(case, where={"item_2": "w1"}), asked(case, where={"item_2": ["nothing"]})]
    requests.insert(1, Request.parse(case.request("test", 0)))
    together, alone = case.funnel.rank_many(requests), [case.funnel.rank(one) for one in requests]
    assert together == alone
    refused, _ = case.funnel.rank_many([asked(case, where={"item_9": 1}), requests[0]])
    assert "where: the bundle knows no 'item_9' here" in str(refused)


def test_a_request_may_say_how_many(case: Case) -> None:
    assert len(case.funnel.rank(asked(case, retrieve=3, trace=True))["trace"]) == 3
    assert len(case.funnel.rank(asked(case, retrieve=999, trace=True))["trace"]) == len(case.items)


def test_filters_let_through_what_has_any_of_the_values(case: Case) -> None:
    items = case.items
    text = items["item_2"].drop_nulls()[0]
    code = items["item_0"].drop_nulls().explode().drop_nulls()[0]
    for where, passing in (
        ({"item_2": text}, items.filter(items["item_2"] == text)),
        (
            {"item_0": [code, 10**9]},
            items.filter(items["item_0"].list.head(2).list.contains(code).fill_null(False)),
        ),
        ({"item_2": "nowhere"}, items.head(0)),
    ):
        trace = case.funnel.rank(asked(case, where=where, retrieve=999, trace=True))["trace"]
        assert {entry["id"] for entry in trace} == set(passing["item_id"].to_list())


def test_filters_that_nothing_passes_are_told(case: Case) -> None:
    answer = case.funnel.rank(asked(case, where={"item_2": "nowhere"}))
    told = "where: no item passes; the bundle knows no such item_2"
    assert (answer["items"], answer["warnings"]) == ([], [told])
    assert "warnings" not in case.funnel.rank(asked(case, where={"item_2": ["w1", "nowhere"]}))


def test_newer_items_are_found_and_older_ones_replaced(case: Case) -> None:
    known = case.items["item_id"].to_list()
    changed = {"item_0": [1], "item_1": 3, "item_2": "w9"}
    fresh = {"item_0": [2], "item_1": 90, "item_2": "w1"}
    layer = case.funnel.request_encoder.encode_items([known[0], 901], [changed, fresh])
    newer = case.funnel.with_changes(7, "", layer)
    trace = newer.rank(asked(case, retrieve=999, trace=True))["trace"]
    ids = [entry["id"] for entry in trace]
    assert sorted(ids) == sorted([*known, 901])
    logits = everyone(case, newer, [*known, 901])
    assert [logits[i] for i in ids] == sorted(logits.values(), reverse=True)
    only = newer.rank(asked(case, where={"item_2": "w9"}, retrieve=999, trace=True))["trace"]
    assert known[0] in {entry["id"] for entry in only}
    assert len(case.funnel.rank(asked(case, retrieve=999, trace=True))["trace"]) == len(known)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"where": {"item_9": 1}}, "where: the bundle knows no 'item_9' here; did you mean"),
        ({"where": {"item_2": [None, 3]}}, "where.item_2: expected text, as in the bundle; received 3"),
        ({"candidates": [1], "where": {"item_2": "w1"}}, "candidates: where candidates are given"),
    ],
)
def test_what_cannot_be_retrieved_is_refused(case: Case, more: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        case.funnel.rank(asked(case, **more))


def test_a_bundle_that_retrieves_none_says_so() -> None:
    plain = shared_case(RICH)
    with pytest.raises(RequestError, match="candidates: none are given, and the bundle has no `retrieval`"):
        plain.funnel.rank(asked(plain))
