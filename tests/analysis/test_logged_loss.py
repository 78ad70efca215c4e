"""Parts in less than fp32: loss measured at export, nothing written beyond bounds, and served as stored."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.analysis.logged_request import logged_request
from corank.analysis.verification import LoggedLoss, verify_bundle
from corank.bundle.bundle import Bundle
from corank.bundle.content import read_parts
from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.core.stored_matrix import Precision, StoredMatrix
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.training.config.settings import ExportSettings
from corank.training.export import export_bundle
from corank.training.run import Run
from corank_serve.store.fetch import fetch_bundle, load_latest
from corank_serve.store.publish import publish_bundle
from corank_serve.store.upsert import upsert
from tests.support.command_line import run_corank
from tests.support.shared import finished_bundle, finished_run, shared
from tests.support.stores import opened

pytestmark = pytest.mark.slow

PARTS = ("prerank.vector", "rank.item")


def with_export(**keys: Any) -> Run:
    """The shared run, whose config stores parts otherwise."""
    run = finished_run()
    return replace(
        run, config=run.config.model_copy(update={"export": validate(ExportSettings, keys, "a.yaml")})
    )


def export(run: Run, path: Path) -> Bundle:
    packed = run.packed()
    model, calibrators, weights = run.networks(packed)
    return export_bundle(
        path, run.config, packed, model, calibrators, weights=weights, measure=LoggedLoss(run, packed, 4)
    )


def stored(precision: Precision) -> Path:
    """A bundle of the shared run at a precision."""
    lowered = dict.fromkeys(PARTS, precision)
    run = with_export(precision=lowered, max_probability_loss=0.05, max_recall_loss=0.2)
    return shared(f"stored-{precision}", lambda folder: export(run, folder / "bundle")) / "bundle"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_is_stored_is_measured_and_verified(precision: Precision) -> None:
    full, reduced = Bundle.open(finished_bundle()), Bundle.open(stored(precision))
    exact, encoded = (read_parts(one.folder, one.manifest) for one in (full, reduced))
    for part in PARTS:
        expected = StoredMatrix.encode(exact[part].decode(), precision)
        np.testing.assert_array_equal(encoded[part].decode(), expected.decode())
    assert reduced.manifest.model_version != full.manifest.model_version
    loss = reduced.manifest.precision_loss
    assert loss is not None and full.manifest.precision_loss is None
    for stage in loss.stages.values():
        assert 0 < stage.mean_probability < stage.max_probability == pytest.approx(stage.max_score, abs=1e-6)
        assert 0.8 <= stage.recall <= 1
    checked = verify_bundle(finished_run(), Funnel(reduced), 3)
    assert checked.reasons == [] and all(row["value"] <= row["margin"] for row in checked.rows)
    request = logged_request(finished_run(), "test", 1)
    for ours, theirs in zip(*(Funnel(one).rank(request)["trace"] for one in (reduced, full)), strict=True):
        gap = abs(ours["stages"]["prerank"]["score"] - theirs["stages"]["prerank"]["score"])
        assert gap <= loss.stages["prerank"].tolerance


def test_a_loss_beyond_a_bound_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = with_export(precision={"prerank.vector": "fp16"}, max_probability_loss=0)
    reason = (
        "with prerank.vector in fp16, a probability of stage 'prerank' changes by .* on 4 logged requests"
    )
    with pytest.raises(
        ConfigError, match=f"export.precision: {reason}, and export.max_probability_loss is 0; "
    ):
        export(run, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_exported_at_a_precision_that_its_config_does_not_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, bundle = finished_run().folder, tmp_path / "bundle"
    code, _, err = run_corank(
        capsys, "export", run, bundle, "--set", "export.precision={prerank.vector: fp16}"
    )
    assert code == 0
    assert "\nprecision: prerank.vector fp16, 16 bytes an item (32 in fp32); rank.item fp32, " in err
    assert re.search(
        r"\nprecision of prerank: recall@\d+ (0\.99\d+|1\.0000), change of a probability \S+ at most", err
    )
    assert "on 100 logged requests" in err
    code, _, err = run_corank(capsys, "export", run, bundle, "--set", "train.epochs=3")
    assert (code, err) == (
        1,
        "error: --set train.epochs=3: only keys of `export` change after training\n",
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_stores_upserts_and_refreshes_keep_the_precision(precision: Precision, tmp_path: Path) -> None:
    bundle = Bundle.open(stored(precision))
    world = finished_run().base
    table = pl.read_parquet(world / "items.parquet").rename({"item_id": "id"})
    items = table.select("id", *bundle.manifest.request_columns.item).head(3).to_dicts()
    moved = [items[0], items[1] | {"id": 10_000_001}]
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(stored(precision), store)
        funnel = Funnel(fetch_bundle(store, version, tmp_path / "cache"))
        assert funnel.manifest.files == bundle.manifest.files
        upsert(store, funnel, moved)
        later = load_latest(store, version, funnel)
    catalogue = later.request_encoder.items
    assert {layer.parts[part].precision for layer in catalogue.layers for part in PARTS} == {precision}
    request = logged_request(finished_run(), "test", 1) | {"candidates": [moved[1], items[2]["id"]]}
    upserted, described = (one.predict(Request.parse(request)) for one in (later, funnel))
    for name, scores in described[1].items():
        np.testing.assert_array_equal(scores, upserted[1][name])
    copy = shutil.copytree(stored(precision), tmp_path / "bundle")
    corank.refresh(copy, str(world / "log" / "*.parquet"), str(world / "items.parquet"))
    again = Bundle.open(copy)
    assert again.manifest.precision_loss == bundle.manifest.precision_loss
    assert read_parts(again.folder, again.manifest)["prerank.vector"].precision == precision
