"""Arrays on disk, memory-mapped when read."""

import itertools
from pathlib import Path

import numpy as np

from corank.core.arrays import UNMAPPED_BYTES, read_array, unmap_pages, write_array


def resident(path: Path) -> int:
    """KiB of a mapped file that this process has in memory."""
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8").split(str(path))[1]
    return int(maps.split("Rss:")[1].split()[0])


def test_a_mapped_array_leaves_memory_step_by_step_and_comes_back(tmp_path: Path) -> None:
    path, values = tmp_path / "values.npy", np.arange(UNMAPPED_BYTES // 4, dtype=np.int64)
    write_array(path, values)
    mapped = read_array(path)[1:]
    np.testing.assert_array_equal(mapped, values[1:])
    whole = resident(path)
    steps = unmap_pages(mapped)
    next(steps)
    assert resident(path) <= whole // 2 + 1024
    assert len(list(steps)) == 2 and resident(path) == 0
    np.testing.assert_array_equal(mapped, values[1:])


def test_an_array_of_no_file_stays() -> None:
    values = np.arange(10)
    assert not list(itertools.islice(unmap_pages(values), 1))
    np.testing.assert_array_equal(values, np.arange(10))
