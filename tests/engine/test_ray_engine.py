"""What every engine does, done by Ray; in one test, since Ray takes seconds to start."""

import os
from pathlib import Path

import pytest

from corank.core.errors import DataError
from tests.support.engine_tasks import KillOnce, divide, read_threads, refuse_seven, square
from tests.support.pack_processes import pack_world, write_world
from tests.support.ray_start import start_ray


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_ray_runs_tasks_as_other_engines_do(tmp_path: Path) -> None:
    with start_ray() as engine:
        assert engine.run(square, list(range(20))) == [n * n for n in range(20)]
        assert all(peak > 2**20 for peak in engine.peaks.values())
        assert engine.run(read_threads, ["POLARS_MAX_THREADS"]) == [str(engine.threads)]
        with pytest.raises(DataError, match=r"^no seven$"):
            engine.run(refuse_seven, list(range(20)))
        with pytest.raises(ZeroDivisionError) as caught:
            engine.run(divide, [2, 1, 0])
        assert "engine_tasks.py" in str(getattr(caught.value, "__notes__", ""))
        ((number, process),) = engine.run(KillOnce(tmp_path), [3])
        assert number == 3 and process != os.getpid()
        assert (tmp_path / "3").exists()
        write_world(tmp_path, 40)
        in_line = pack_world(tmp_path, tmp_path / "in_line")
        assert pack_world(tmp_path, tmp_path / "ray", engine) == in_line
