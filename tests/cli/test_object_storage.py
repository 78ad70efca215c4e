"""Every command that takes a URL, against a server that speaks S3's protocol."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.signatures import TrustedKeys
from corank.core.artifact import measure_files, new_content
from corank.core.artifact_cache import ArtifactCache
from corank.core.artifact_objects import Publisher
from corank.core.errors import BusyError, CheckpointError
from corank.core.objects import ObjectUrl, parse_location
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.manifest import PackManifest
from corank.data.packing import pack as packing
from corank.testing.worlds import trained_run
from corank.training.callbacks import TrainingLog
from corank.training.checkpoints.checkpoint_files import load
from corank.training.run import Run
from corank.training.run_publisher import RunManifest
from corank_serve.store.source import BundleSource
from tests.support import shared
from tests.support.command_line import run_corank
from tests.support.interruptions import Interrupting, interrupt, same
from tests.support.object_store import ObjectStore, make_store, use_store
from tests.support.signing import make_keys
from tests.support.simulated_runs import Silent

pytestmark = pytest.mark.slow
ROWS = 6_000
"""Rows of a partition, so that the world has several."""


@dataclass
class RemoteWorld:
    """The simulated world with its tables, packed data, a run and a bundle in object storage."""

    store: ObjectStore
    config: Path
    cache: Path
    packed: Path
    """The same data, packed on this machine."""

    @property
    def overrides(self) -> list[str]:
        url = self.store.url
        tables = {"log": "log/*.parquet", "items": "items.parquet", "users": "users.parquet"}
        return [
            *(f"data.{name}={url}/{path}" for name, path in tables.items()),
            f"data.truth={url}/truth/*.parquet",
            f"packed={url}/packed/shop",
            "train.epochs=1",
        ]

    def held_bytes(self) -> int:
        """Bytes of all files that were fetched into the cache."""
        files = (path for path in self.cache.rglob("*") if path.is_file() and path.parent.name != "templates")
        return sum(path.stat().st_size for path in files)


@pytest.fixture(scope="module")
def remote(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteWorld]:
    """Packed, trained and exported, all by URLs, with a cache that is smaller than the packed data."""
    world, folder = shared.simulated_world(), tmp_path_factory.mktemp("remote")
    store = make_store(s3_endpoint, "remote-world")
    for path in [*world.glob("log/*"), *world.glob("truth/*"), *world.glob("*.parquet")]:
        store.put(str(path.relative_to(world)), path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        use_store(store, folder / "cache", patch)
        patch.setattr(packing, "PARTITION", ROWS)
        local = corank.pack(world / "config.yaml", [f"packed={folder / 'packed'}"]).packed
        made = RemoteWorld(store, world / "config.yaml", folder / "cache", folder / "packed")
        patch.setenv("CORANK_CACHE_GIB", str(local.manifest.size * 0.85 / 2**30))
        corank.pack(made.config, made.overrides)
        corank.train(made.config, overrides=made.overrides, folder=f"{store.url}/run")
        corank.export(f"{store.url}/run", f"{store.url}/bundle")
        yield made


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The output of a command that succeeds."""
    code, out, err = run_corank(capsys, *arguments)
    assert code == 0, err
    return out


def test_packed_data_are_those_of_this_machine(remote: RemoteWorld) -> None:
    theirs = PackedDataset.open(parse_location(f"{remote.store.url}/packed/shop"))
    ours = PackedDataset.open(remote.packed)
    assert theirs.codes == ours.codes and theirs.users.equals(ours.users)
    for split, shards in ours.splits.items():
        assert len(theirs.splits[split]) == len(shards) > 1
        for n, shard in enumerate(shards):
            theirs.prefetch(split, n)
            assert np.array_equal(theirs.splits[split][n].item, shard.item)
            assert theirs.splits[split][n].keys.equals(shard.keys)
            assert remote.held_bytes() <= ArtifactCache.of_environment().bound


def test_trained_from_there_the_weights_are_the_same(remote: RemoteWorld, tmp_path: Path) -> None:
    ours = trained_run(remote.config, tmp_path / "run", f"packed={remote.packed}", "train.epochs=1")
    theirs = Run.open(parse_location(f"{remote.store.url}/run"))
    ours_held, theirs_held = (load(side.folder / "model") for side in (ours, theirs))
    assert all(torch.equal(tensor, theirs_held.tensors[name]) for name, tensor in ours_held.tensors.items())
    assert theirs.base == remote.config.parent


def test_a_run_is_read_by_its_url(remote: RemoteWorld, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{remote.store.url}/run"
    assert corank.evaluate(url, bootstrap=False)["run"]["split"] == "test"
    assert f"{url}/report.html" in run_corank(capsys, "report", url)[2]
    assert remote.store.get("run/report.html").startswith(b"<!DOCTYPE html>")


def test_a_bundle_is_read_by_its_url(
    remote: RemoteWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{remote.store.url}/bundle"
    (tmp_path / "request.json").write_text(run(capsys, "request", f"{remote.store.url}/run"))
    answer = json.loads(run(capsys, "rank", url, tmp_path / "request.json", "--json"))
    bundle = Bundle.open(parse_location(url))
    assert answer["items"] and answer["model_version"] == bundle.manifest.model_version
    assert (
        run_corank(capsys, "rank", url, tmp_path / "request.json", "--trust", make_keys(tmp_path).public)[0]
        == 1
    )
    run(capsys, "publish", url, f"lmdb:{tmp_path / 'store'}")
    assert corank.store_versions(f"lmdb:{tmp_path / 'store'}")[0]["version"] == bundle.manifest.content
    run(capsys, "vectors", url, f"{remote.store.url}/items.parquet", f"{remote.store.url}/out/v.parquet")
    vectors = pl.read_parquet(remote.store.get("out/v.parquet"))
    assert len(vectors) == len(pl.read_parquet(remote.store.get("items.parquet")))


def test_a_service_follows_a_url_that_is_signed(remote: RemoteWorld, tmp_path: Path) -> None:
    url, keys = f"{remote.store.url}/served", make_keys(tmp_path)
    corank.export(f"{remote.store.url}/run", url, sign=[keys.private])
    source = BundleSource(parse_location(url), TrustedKeys.load([keys.public]))
    funnel = source.load_newer(None)
    assert funnel is not None and source.load_newer(funnel) is None
    before = remote.store.names("served/")
    corank.refresh(
        url,
        f"{remote.store.url}/log/*.parquet",
        items=f"{remote.store.url}/items.parquet",
        sign=[keys.private],
    )
    newer = source.load_newer(funnel)
    assert newer is not None and newer.manifest.items_seq == funnel.manifest.items_seq + 1
    # a file that did not change is not sent again, and what is named no more is removed
    after = remote.store.names("served/")
    assert len(after) == len(newer.manifest.files) + 1 and len({*before} & {*after}) > 1


def test_a_training_goes_on_from_its_url(remote: RemoteWorld, tmp_path: Path) -> None:
    every = [f"packed={remote.packed}", "train.epochs=2", "train.checkpoint_every=3"]
    url = f"{remote.store.url}/broken"
    interrupt(Interrupting(2), remote.config, every, folder=url)
    assert not list(remote.cache.glob(".partial-*"))
    with pytest.raises(CheckpointError, match=f"{url}: holds a training; go on with --resume"):
        corank.train(remote.config, overrides=every, folder=url)
    resumed = trained_run(remote.config, url, *every, resume=True)
    assert same(resumed, trained_run(remote.config, tmp_path / "unbroken", *every))


def test_another_training_at_the_same_url_is_told(remote: RemoteWorld, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{remote.store.url}/twice")
    overrides = [f"packed={remote.packed}", "train.epochs=2"]

    class Intruding(Silent):
        def on_log(self, event: TrainingLog) -> None:
            if not self.losses:  # before the first checkpoint
                manifest = RunManifest(content=new_content(), files=measure_files(tmp_path))
                Publisher.open(url, RunManifest).publish(tmp_path, manifest)
            super().on_log(event)

    with pytest.raises(BusyError, match="another process has published there meanwhile"):
        corank.train(remote.config, overrides, folder=str(url), callbacks=[Intruding()])
    (kept,) = remote.cache.glob("run-*")
    assert Run.open(kept).folder == kept
    shutil.rmtree(kept)


def test_data_that_could_not_be_published_are_published_by_the_next_packing(remote: RemoteWorld) -> None:
    url = ObjectUrl.parse(f"{remote.store.url}/again")
    lines: list[str] = []

    def intrude(line: str) -> None:
        lines.append(line)
        if line == f"publishing to {url}":
            packed = PackedDataset.open(remote.packed)
            Publisher.open(url, PackManifest).publish(packed.folder, packed.manifest)

    with pytest.raises(BusyError, match="another process has published there meanwhile"):
        corank.pack(remote.config, [f"packed={url}"], intrude)
    assert any(line.startswith("packed:") for line in lines)
    lines.clear()
    assert corank.pack(remote.config, [f"packed={url}"], lines.append).packed.location == url
    assert lines == [f"publishing to {url}"]
    assert not list(remote.cache.glob("packing-*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "s3://shop/config.yaml"],
        ["experiment", "config.yaml", "structures", "--out", "s3://shop/out"],
        ["export", "run", "bundle", "--sign", "s3://shop/key.pem"],
        ["serve", "bundle", "--log", "s3://shop/log"],
        ["replay", "s3://shop/served", "bundle"],
        ["token", "ann", "--tokens", "s3://shop/tokens", "--scope", "read"],
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_where_no_url_is_taken_it_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, _, err = run_corank(capsys, *arguments)
    assert code == 1 and "s3://shop/" in err and "no URL can be given here" in err
