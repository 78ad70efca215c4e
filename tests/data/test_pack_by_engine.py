"""Any engine, any number of workers, any kill and any cut of the tables give the same packed files, byte for byte."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from corank.core.artifact import MANIFEST, read_manifest
from corank.core.errors import DataError
from corank.data.packed.manifest import PackManifest
from corank.data.packing import fit_encoders as measure
from corank.engine.base import Engine, open_engine
from tests.support import kills
from tests.support.engine_tasks import KillingPool
from tests.support.pack_processes import pack_until, pack_world, write_world

pytestmark = pytest.mark.slow

REQUESTS = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, REQUESTS)
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[Engine]:
    with open_engine("pool", 2) as engine:
        yield engine


@pytest.fixture(scope="module")
def in_line(world: Path) -> dict[str, str]:
    """The digests of the files that one process packs."""
    digests = pack_world(world, world / "in_line")
    assert len({Path(name).parts[1] for name in digests if name.startswith("train/")}) > 3
    return digests


def test_the_files_do_not_depend_on_the_number_of_workers(
    world: Path, in_line: dict[str, str], pool: Engine
) -> None:
    said: list[str] = []
    assert pack_world(world, world / "pool", pool, said.append) == in_line
    assert said[-1].startswith("memory: at most ")
    assert said[-1].endswith(" MiB in each of 2 workers")


def test_ranges_of_rows_and_of_values_do_not_change_the_files(
    world: Path, in_line: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PARTITION", 7)
    assert pack_world(world, world / "ranges", batch=9) == in_line


def test_killed_workers_change_nothing(world: Path, in_line: dict[str, str], tmp_path: Path) -> None:
    with KillingPool(tmp_path) as engine:
        assert pack_world(world, world / "killed", engine) == in_line
        assert engine.marks > 3


def test_a_killed_driver_is_followed_by_one_that_goes_on(
    world: Path, in_line: dict[str, str], pool: Engine
) -> None:
    out = world / "resumed"
    for engine, workers, tasks in (("pool", 2, 3), ("in_line", 1, 8)):
        process = kills.start(pack_until, tasks, world, out, engine, workers)
        process.join()
        assert process.exitcode == -signal.SIGKILL and not (out / MANIFEST).exists()
    said: list[str] = []
    assert pack_world(world, out, pool, said.append) == in_line
    assert said[0].startswith("going on with a packing that was interrupted after ")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [read_manifest(out, PackManifest).content, MANIFEST]
    )


def test_an_error_of_the_user_in_a_worker_is_that_error_and_leaves_nothing(
    world: Path, pool: Engine, tmp_path: Path
) -> None:
    for path in world.glob("*.parquet"):
        shutil.copy(path, tmp_path)
    truth = pl.read_parquet(tmp_path / "truth.parquet")
    truth[1:].write_parquet(tmp_path / "truth.parquet")
    with pytest.raises(DataError, match=r"^data\.truth: no 'click' of candidates of the log, such as item="):
        pack_world(tmp_path, tmp_path / "out", pool)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet"] * 5
