"""Pages as a service answers, counts and logs them."""

import json
from pathlib import Path
from urllib.request import Request as Call
from urllib.request import urlopen

import pytest

import corank
from tests.support.random_worlds import PAGED
from tests.support.service import running_service
from tests.support.shared import shared_case
from tests.support.waiting import eventually


@pytest.mark.thorough
def test_a_service_answers_with_pages_and_replays_its_log(tmp_path: Path) -> None:
    case, log = shared_case(PAGED), tmp_path / "served"
    asked = [case.request("test", n) for n in range(6)]
    asked.append(asked[0] | {"candidates": case.items["item_id"].to_list(), "trace": True, "time": None})
    asked = [request | {"time": None} for request in asked]
    wanted = case.funnel.rank_many(asked)
    with running_service(str(case.base / "bundle"), tmp_path / "cache", "--log", str(log)) as (url, _):
        for request, answer in zip(asked, wanted, strict=True):
            assert isinstance(answer, dict)
            call = Call(f"{url}/rank", json.dumps(request).encode(), {"Content-Type": "application/json"})
            served = json.load(urlopen(call))
            assert [item["id"] for item in served["items"]] == [item["id"] for item in answer["items"]]
        assert "page" in served["microseconds"] and served["trace"][0]["cut"] in (
            None,
            "prerank",
            "rank",
            "page",
        )
        version = json.load(urlopen(f"{url}/version"))
        assert version["stages"][-1]["name"] == "page" and len(version["stages"][-1]["rules"]) == 3
        metrics = urlopen(f"{url}/metrics").read().decode()
        assert 'corank_cut_total{stage="page"}' in metrics
    eventually(lambda: bool([*log.glob("*.parquet")]))
    replayed = corank.replay(log, case.base / "bundle")
    assert replayed["requests"] == len(asked) and not replayed["differ"]
