"""Engines give the results of all tasks in order, a user's error once, and run a dead worker's tasks again."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corank.core.errors import DataError, EngineError, MissingExtraError, PluginError
from corank.core.panics import PanicError
from corank.engine.base import Engine, open_engine
from tests.support.engine_tasks import KillOnce, kill_worker, read_threads, refuse_seven, square
from tests.support.panics import panic


@pytest.fixture(scope="module")
def pool() -> Iterator[Engine]:
    with open_engine("pool", 2) as engine:
        yield engine


@pytest.fixture(params=["in_line", "pool"])
def engine(request: pytest.FixtureRequest, pool: Engine) -> Engine:
    return open_engine() if request.param == "in_line" else pool


def test_results_come_in_the_order_of_the_tasks(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    squares = engine.run(square, list(range(20)), lambda done, total: seen.append((done, total)))
    assert squares == [n * n for n in range(20)]
    assert seen == [(n, 20) for n in range(1, 21)]
    assert engine.peaks and all(peak > 2**20 for peak in engine.peaks.values())
    assert engine.run(square, []) == []


def test_an_error_of_the_user_arrives_as_it_is(engine: Engine) -> None:
    with pytest.raises(DataError, match=r"^no seven$") as caught:
        engine.run(refuse_seven, list(range(20)))
    assert not hasattr(caught.value, "__notes__")
    assert engine.run(square, [3]) == [9]


def test_a_panic_in_a_task_is_an_error_and_its_worker_lives_on(engine: Engine) -> None:
    with pytest.raises(PanicError, match="PanicException"):
        engine.run(panic, [1, 2, 3])
    assert engine.run(square, [3]) == [9]


def test_what_a_dead_worker_had_runs_again(pool: Engine, tmp_path: Path) -> None:
    results = pool.run(KillOnce(tmp_path), list(range(8)))
    assert [n for n, _ in results] == list(range(8))
    assert os.getpid() not in {process for _, process in results}
    assert {path.name for path in tmp_path.iterdir()} == {"0", "3", "6"}


def test_a_task_that_always_kills_its_worker_is_named(pool: Engine) -> None:
    with pytest.raises(EngineError, match=r"^engine pool: task 5: its worker was killed by SIGKILL, 5 times"):
        pool.run(kill_worker, list(range(8)))
    assert pool.run(square, [3]) == [9]


def test_libraries_in_workers_start_few_threads(pool: Engine) -> None:
    names = ["OMP_NUM_THREADS", "POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS"]
    most = {name: min(pool.threads, int(os.environ.get(name, pool.threads))) for name in names}
    assert pool.run(read_threads, names) == [str(n) for n in most.values()]


def test_a_closed_pool_leaves_no_process(tmp_path: Path) -> None:
    with open_engine(workers=2) as engine:
        processes = {process for _, process in engine.run(KillOnce(tmp_path), [1, 2, 4, 5])}
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("in_line", 2), r"--workers 2: engine in_line has one"),
        (("pol", 2), r"unknown engine 'pol'; did you mean 'pool'\?"),
    ],
)
def test_a_setting_without_effect_is_refused(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises((EngineError, PluginError), match=message):
        open_engine(*settings)


def test_without_ray_its_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"engine ray needs ray; .* pip install '\.\[ray\]'"):
        open_engine("ray", 2)
