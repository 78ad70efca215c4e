"""CPU time of requests, and the estimated cost of each feature by stage and number of candidates."""

from collections.abc import Callable
from pathlib import Path

import pytest

from corank.analysis import latency
from corank.analysis.latency import feature_latencies
from corank.analysis.logged_request import logged_request
from corank.analysis.quota_costs import cpu_ms
from corank.core.errors import RequestError
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.run import Run
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


def asked(case: Case) -> Request:
    request = case.request("test", 0)
    return Request.parse(request | {"candidates": [{"id": n, "bid": 1.0} for n in range(16)]})


def test_each_part_is_paid_where_it_is_needed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what is encoded, the stages whose tables are looked up, the layers that read it."""

    def once(run: Callable[[], object] | None) -> float:
        return 0.0 if run is None else float(bool([run()]))

    monkeypatch.setattr(latency, "timed", once)
    latencies = feature_latencies(case.config, case.packed, case.model, case.calibrators, asked(case))
    parts = {name: (p.encode, p.look_up, p.network) for name, p in latencies.items()}
    assert parts["user_id"] == (1, 2, 2)
    assert parts["history_1_item_2"] == (1, 2, 3)
    assert parts["user_2"] == (1, 1, 1)  # in no query tower
    assert parts["context_2"] == (1, 0, 2)  # a number
    assert parts["item_id"] == (0, 1, 1)
    assert parts["item_4"] == (0, 1, 1)  # a vector
    assert parts["cross_1"] == (1, 1, 1)
    assert latencies["user_id"].plain() == {"encode": 1, "look_up": 2, "network": 2, "total": 5}


def test_a_time_for_every_quota(trained: Run, trained_bundle: Path) -> None:
    funnel = Funnel.open(trained_bundle)
    requests = [Request.parse(logged_request(trained, "test", n)) for n in (0, 1)]
    times = cpu_ms(funnel, requests, "prerank", [6, 12, 30])
    assert times.shape == (3,) and (times > 0).all()
    with pytest.raises(RequestError, match="no stage 'pre'"):
        cpu_ms(funnel, requests, "pre", [6])
