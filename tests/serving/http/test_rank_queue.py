"""Requests that wait are ranked together, each with its own outcome, whoever of them is cancelled."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from corank.core.panics import PanicError
from corank_serve.http.ranking import RankQueue
from tests.support.panics import panic
from tests.support.waiting import PATIENCE

MOST_REQUESTS, MOST_CANDIDATES = 4, 100


class Ranker:
    """Notes the batches; a negative request fails alone, 13 lets the whole batch fail, 17 lets polars panic, 23 ends an
    iteration that nobody began."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.queue = RankQueue[int, int](self.rank, MOST_REQUESTS, MOST_CANDIDATES)

    def rank(self, batch: Sequence[int]) -> list[int | Exception]:
        self.batches.append([*batch])
        if 13 in batch:
            raise RuntimeError("thirteen")
        if 17 in batch:
            panic()
        if 23 in batch:
            raise StopIteration
        if 19 in batch:
            raise SystemExit(3)
        return [ValueError(str(one)) if one < 0 else one * 10 for one in batch]


async def ask(ranker: Ranker, *requests: int, size: int = 1) -> list[Any]:
    asked = (ranker.queue.run(one, size) for one in requests)
    return await asyncio.gather(*asked, return_exceptions=True)


def test_one_alone_is_ranked_at_once_and_those_that_wait_together() -> None:
    ranker = Ranker()
    assert asyncio.run(ask(ranker, 1)) == [10]
    assert asyncio.run(ask(ranker, 2, 3, 4)) == [20, 30, 40]
    assert ranker.batches == [[1], [2, 3, 4]]


def test_one_that_is_alone_is_ranked_without_another_turn_of_the_loop_unless_somebody_ranks() -> None:
    ranker = Ranker()

    async def run() -> None:
        turns = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(turns.set_result, None)
        assert await ranker.queue.run(1, 1, alone=True) == 10 and not turns.done()
        assert await ranker.queue.run(2, 1) == 20 and turns.done()
        with pytest.raises(ValueError, match="-3"):
            await ranker.queue.run(-3, 1, alone=True)
        first = asyncio.create_task(ranker.queue.run(4, 1))
        await asyncio.sleep(0)  # which waits for what has arrived
        assert await ranker.queue.run(5, 1, alone=True) == 50 and await first == 40

    asyncio.run(run())
    assert ranker.batches == [[1], [2], [-3], [4, 5]]


def test_a_batch_has_bounds() -> None:
    ranker = Ranker()
    many = range(1, 2 * MOST_REQUESTS)
    assert asyncio.run(ask(ranker, *[n + 100 for n in many])) == [10 * (n + 100) for n in many]
    assert [len(batch) for batch in ranker.batches] == [MOST_REQUESTS, MOST_REQUESTS - 1]
    ranker.batches.clear()
    asyncio.run(ask(ranker, 1, 2, 3, size=MOST_CANDIDATES // 2))
    asyncio.run(ask(ranker, 4, 5, size=2 * MOST_CANDIDATES))
    assert ranker.batches == [[1, 2], [3], [4], [5]]


def test_each_has_its_own_error() -> None:
    one, error, other = asyncio.run(ask(Ranker(), 1, -2, 3))
    assert (one, str(error), other) == (10, "-2", 30) and isinstance(error, ValueError)
    ranker = Ranker()
    assert [str(error) for error in asyncio.run(ask(ranker, 12, 13))] == ["thirteen"] * 2
    assert asyncio.run(ask(ranker, 14)) == [140]


def test_an_error_that_no_future_takes_keeps_nobody_from_a_turn() -> None:
    """A plug-in's stage may raise anything, such as StopIteration, which a future refuses."""
    ranker = Ranker()
    outcomes = asyncio.run(asyncio.wait_for(ask(ranker, 22, 23, 24), PATIENCE))
    assert [type(one) for one in outcomes] == [RuntimeError] * 3
    assert asyncio.run(ask(ranker, 25)) == [250]


def test_a_panic_is_the_error_of_all_whom_it_concerns() -> None:
    ranker = Ranker()
    outcomes = asyncio.run(asyncio.wait_for(ask(ranker, 16, 17, 18), PATIENCE))
    assert [type(one) for one in outcomes] == [PanicError] * 3
    assert "PanicException" in str(outcomes[0])
    with pytest.raises(PanicError):
        asyncio.run(ranker.queue.run(17, 1, alone=True))
    assert asyncio.run(ask(ranker, 20)) == [200]


def test_what_stops_the_process_is_no_error_of_a_request() -> None:
    with pytest.raises(SystemExit):
        asyncio.run(ask(Ranker(), 18, 19))


@pytest.mark.parametrize("gone", [[0], [1], [MOST_REQUESTS], [0, 1, MOST_REQUESTS, MOST_REQUESTS + 1]])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_who_is_cancelled_keeps_nobody_from_a_turn(gone: list[int], turns: int) -> None:
    ranker, count = Ranker(), 2 * MOST_REQUESTS + 3

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(ranker.queue.run(n + 100, 1)) for n in range(count)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for n in gone:
            tasks[n].cancel()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    outcomes = asyncio.run(run())
    for n, outcome in enumerate(outcomes):
        assert outcome == (n + 100) * 10 or (n in gone and isinstance(outcome, asyncio.CancelledError))
    asked = [one for batch in ranker.batches for one in batch]
    assert len(asked) == len({*asked}) and asyncio.run(ask(ranker, 1)) == [10]
