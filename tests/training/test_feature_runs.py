"""Runs of other features over the same packed data: each keeps its own, and trains as on data packed from scratch."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import corank
from corank.core.errors import BusyError, ConfigError, DataError
from corank.data.packed.dataset import PackedDataset
from corank.testing.worlds import make_world, trained_run
from corank.training.checkpoints.checkpoint_files import load
from corank.training.config.config_file import read
from corank.training.packed_data import open_packed
from corank.training.run import Run
from tests.support.interruptions import Interrupting, interrupt, same
from tests.support.shared import shared
from tests.support.simulated_runs import Silent

pytestmark = pytest.mark.slow

CTR = "features.ctr={kind: prior, by: [brand], label: click, every: 1d}"
FEW = ("features.category=null", "features.price.scale=standard")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config of a world of its own, packed."""
    made = shared("feature_runs", lambda folder: make_world(folder / "world", requests=200, items=60))
    return shutil.copytree(made / "world", tmp_path / "world") / "config.yaml"


def train(config: Path, folder: Path, *overrides: str) -> tuple[list[dict[str, float]], Run]:
    """The losses of each step, and the run."""
    callback = Silent()
    run = corank.train(config, ["train.requests=16", *overrides], folder=folder, callbacks=[callback]).run
    return callback.losses, run


def test_a_feature_that_is_added_trains_as_if_packed_from_scratch(config: Path, tmp_path: Path) -> None:
    losses, run = train(config, tmp_path / "added", CTR, *FEW)
    sets = config.parent / "packed" / "simulated-medium" / "sets"
    assert run.packed().location in list(sets.iterdir())
    scratch, other = train(config, tmp_path / "scratch", CTR, *FEW, f"packed={tmp_path / 'scratch_packed'}")
    assert other.packed().location == tmp_path / "scratch_packed"
    assert losses == scratch and len(losses) > 1
    ours, theirs = (load(one.folder / "model").tensors for one in (run, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def examine(run: Run, bundle: Path) -> tuple[Any, str]:
    """Evaluate and export a run."""
    exported = corank.export(run.folder, bundle).bundle
    return corank.evaluate(run.folder, bootstrap=False), exported.manifest.model_version


def test_runs_of_other_features_stay_usable_whatever_is_packed_later(config: Path, tmp_path: Path) -> None:
    runs, short = config.parent / "runs", "train.epochs=1"
    one, other = trained_run(config, runs / "one", *FEW, short), trained_run(config, runs / "other", CTR)
    before = [examine(run, tmp_path / f"{n}") for n, run in enumerate((one, other))]
    interrupt(Interrupting(1), config, [CTR], folder=runs / "broken")
    corank.pack(config, ["features.tab=null"])
    corank.pack(config, ["features.quality=null", CTR])
    corank.pack(config, prune=True)
    assert len(list((config.parent / "packed" / "simulated-medium" / "sets").iterdir())) == 2
    assert [examine(run, tmp_path / f"again{n}") for n, run in enumerate((one, other))] == before
    assert corank.explain(one.folder, most=5)["features"].keys() == one.config.features.keys()
    assert same(trained_run(config, runs / "broken", CTR, resume=True), other)


def test_what_nothing_uses_is_removed(config: Path) -> None:
    root, said = config.parent / "packed" / "simulated-medium", list[str]()
    unused = Path(corank.pack(config, ["features.tab=null", CTR])["packed"])
    kept = trained_run(config, config.parent / "runs" / "kept", CTR, "train.epochs=1")
    # named by a run, as of an experiment
    within = Path(corank.pack(config, ["features.hour=null"])["packed"])
    named = config.parent / "experiments" / "shop" / "run"
    Run.create(named, read(config, ["features.hour=null", f"packed={within}"]), config.parent)
    damaged = unused.with_name("damaged")
    shutil.copytree(within, damaged)
    (damaged / "manifest.json").unlink()
    corank.pack(config, prune=True, report=said.append)
    assert set((root / "sets").iterdir()) == {kept.packed().location, within}
    gone = sorted([unused, damaged])
    assert [line.split(": ")[0] for line in said[-3:-1]] == [f"removed {folder}" for folder in gone]
    freed = [int(line.split(": ")[1].split(" bytes")[0].replace(",", "")) for line in said[-3:]]
    assert freed[2] == freed[0] + freed[1] > freed[0] > 0
    assert said[-1].startswith("removed 2 of 4 other sets of features: ")
    Run.open(named).packed()
    PackedDataset.open(root)
    corank.pack(config, prune=True, report=said.append)
    assert said[-1] == "removed 0 of 2 other sets of features: 0 bytes freed"


def test_nothing_is_removed_while_it_is_unknown_what_is_used(config: Path) -> None:
    packed = corank.pack(config, [CTR]).packed
    folder = config.parent / "runs" / "shop"
    with Run.lock(folder), pytest.raises(BusyError, match=r"runs/shop: corank train .* prune when it has"):
        corank.pack(config, prune=True)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"config": {}}), encoding="utf-8")
    with pytest.raises(DataError, match="runs/shop: cannot be read, so that nothing is removed"):
        corank.pack(config, prune=True)
    with pytest.raises(ConfigError, match="--prune: s3://shop/packed holds one set of features"):
        corank.pack(config, ["packed=s3://shop/packed"], prune=True)
    assert open_packed(read(config, [CTR]), config.parent).folder == packed.folder


def test_what_a_process_has_opened_stays_readable(config: Path) -> None:
    read = corank.pack(config, ["features.tab=null"]).packed
    corank.pack(config, prune=True)
    assert not read.folder.exists() and read.encoder_files and len(read.splits["train"][0])
