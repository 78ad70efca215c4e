"""A few of the cases of `scripts/bench fuzz`, against a real server."""

from pathlib import Path

import httpx2
import pytest

import corank
from tests.support import hostile_input
from tests.support.random_worlds import RICH
from tests.support.service import running_service
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow


def test_hostile_input_is_answered_and_changes_nothing_for_others(tmp_path: Path) -> None:
    case = shared_case(RICH)
    store = f"lmdb:{tmp_path / 'store'}"
    corank.publish(case.base / "bundle", store)
    valid = case.request("test", 0)
    with running_service(store, tmp_path / "cache") as (url, _):
        results = [
            hostile_input.post_mutations(url, "/rank", valid, 120, 0),
            hostile_input.post_mutations(url, "/rank", valid, 80, 2, packed=True),
            hostile_input.post_mutations(
                url, "/rank/batch", {"requests": [valid, valid]}, 50, 3, packed=True
            ),
            hostile_input.post_mutations(
                url, "/items", {"items": [{"id": 7, "item_1": 3, "item_2": "w1"}]}, 80, 1
            ),
            hostile_input.call_operations(url, 10),
        ]
        after = httpx2.post(f"{url}/rank", json=valid)
    assert [(result.failed, result.hung, result.first) for result in results] == [(0, 0, "")] * 5
    assert sum(result.cases for result in results) > 250
    assert after.status_code == 200
