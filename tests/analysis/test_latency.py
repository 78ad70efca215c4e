"""CPU time of requests, and the estimated cost of each feature by stage and number of candidates."""

from collections.abc import Callable
from pathlib import Path

import pytest

from corank.analysis import latency
from corank.analysis.latency import _widths, cpu_ms, feature_latencies, timed
from corank.analysis.logged_request import logged_request
from corank.core.errors import RequestError
from corank.models.settings.two_tower import TowersSettings
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.run import Run
from tests.support.cases import Case
from tests.support.encoded_batches import SCHEMA
from tests.support.random_worlds import DERIVED, LISTED
from tests.support.shared import shared_case

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


def test_no_work_costs_nothing() -> None:
    assert timed(None) == 0
    assert timed(lambda: sum(range(1000))) > 1


def test_of_several_towers_those_that_read_a_feature_are_paid(case: Case) -> None:
    prerank, rank = case.config.stages
    all_widths = {n: _widths(prerank, case.packed.schema, n) for n in case.config.features}
    read = {n: widths for n, widths in all_widths.items() if widths}
    assert isinstance(prerank, TowersSettings)
    one = prerank.query_towers["one"].features
    assert read == {name: [8] for name in one} | {"history_1_item_2": [8, 4]}
    assert {tuple(_widths(rank, case.packed.schema, n)) for n in case.packed.schema.inputs()} == {(8,)}


def test_of_one_tower_what_enters_it_is_paid() -> None:
    tower = TowersSettings(name="prerank", model="towers", value="click", keep=9, query=[16, 4], item=[8, 4])
    assert [_widths(tower, SCHEMA, name) for name in ("user", "item", "match")] == [[16], [], []]
    chosen = tower.model_copy(update={"query_features": ["user"]})
    assert (_widths(chosen, SCHEMA, "user"), _widths(chosen, SCHEMA, "age")) == ([16], [])


def asked(case: Case) -> Request:
    request = case.request("test", 0)
    return Request.parse(request | {"candidates": [{"id": n, "bid": 1.0} for n in range(16)]})


def test_the_first_stage_meets_all_and_the_next_what_it_keeps(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_stage", lambda funnel, stage, name, received, n: (float(n), 0.0))
    latencies = feature_latencies(case.funnel, asked(case), case.config.stages)
    assert {(p.look_up, p.network) for p in latencies.values()} == {(16 + 4, 0)}


def test_each_part_is_paid_where_it_is_needed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what is encoded, the stages whose tables are looked up, the layers that read it."""

    def once(run: Callable[[], object] | None) -> float:
        return 0.0 if run is None else float(bool([run()]))

    monkeypatch.setattr(latency, "timed", once)
    latencies = feature_latencies(case.funnel, asked(case), case.config.stages)
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


def test_lists_of_events_are_encoded_from_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "timed", lambda run: 0.0 if run is None else float(bool([run()])))
    case = shared_case(LISTED)
    latencies = feature_latencies(case.funnel, asked(case), case.config.stages)
    lists = case.packed.schema.parallels()
    assert lists and set(lists.values()) <= set(case.packed.schema.histories())
    assert {latencies[name].encode for name in lists} == {1}


def test_a_cross_is_encoded_for_all_that_the_first_stage_to_read_it_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is the pre-ranker for its matches, the ranker for other crosses."""
    case = shared_case(DERIVED | {"matches": True})
    encoded: dict[str, int] = {}

    def note(funnel: object, name: str, request: Request, received: object, n: int) -> None:
        encoded[name] = n

    monkeypatch.setattr(latency, "_encoding", note)
    monkeypatch.setattr(latency, "_stage", lambda *_: (0.0, 0.0))
    feature_latencies(case.funnel, asked(case), case.config.stages)
    matches = case.config.stages[0].counted()
    assert matches and {encoded[name] for name in matches} == {16}
    assert encoded["cross_1"] == case.config.stages[0].keep == 4
