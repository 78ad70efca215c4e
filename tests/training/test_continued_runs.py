"""Runs on packed data of one day go on to be opened, evaluated and exported after later days are packed."""

from pathlib import Path

import pytest

import corank
from corank.core.errors import DataError
from corank.training.run import Run
from tests.support.daily_log import config_of, write_day


def test_later_packings_invalidate_no_run(tmp_path: Path) -> None:
    config = config_of(0, tmp_path)
    write_day(tmp_path, 0)
    first = corank.train(config, folder=tmp_path / "run0").run
    before = corank.evaluate(first.folder, split="valid").document
    write_day(tmp_path, 1)
    # the files changed, and nothing goes on from the data yet
    with pytest.raises(DataError, match="packed from another config or other files"):
        corank.evaluate(first.folder, split="valid")
    # a training from a run packs from it, too
    second = corank.train(config_of(1, tmp_path), folder=tmp_path / "run1", continue_from=first.folder).run
    packed = corank.pack(config_of(1, tmp_path), continue_from=first.folder).packed
    assert second.packed().folder == packed.folder and packed.manifest.continued is not None
    assert second.origin is not None
    write_day(tmp_path, 2)
    corank.pack(config_of(2, tmp_path), continue_from=second.folder)
    # another packing of the second day's config, whose vocabularies are others
    (tmp_path / "log").joinpath("late.parquet").write_bytes(next((tmp_path / "log").iterdir()).read_bytes())
    other = corank.pack(config_of(1, tmp_path), continue_from=first.folder).packed
    assert corank.evaluate(first.folder, split="valid").document == before
    corank.evaluate(second.folder, split="valid")
    assert second.packed().folder != other.folder
    assert Run.open(second.folder).packed().folder == second.packed().folder
    with pytest.raises(
        DataError, match=r"other packed data go on from these, .* `corank pack --from`, or name another"
    ):
        corank.pack(config_of(2, tmp_path) | {"data": config["data"]})
    for run in (first, second):
        bundle = corank.export(run.folder, tmp_path / f"bundle {run.folder.name}").bundle
        assert bundle.manifest.model_version
