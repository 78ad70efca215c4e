"""Results of check, pack, export, refresh and publish: tables, figures, a notebook's view, and the command's JSON."""

import json
from pathlib import Path

import pytest

import corank
from corank.api.bundles import BundleResult
from corank.bundle.bundle import Bundle
from corank.core.artifact import measure_files
from corank.training.run import Run
from tests.api.test_results import printed, viewed

pytestmark = pytest.mark.slow


def test_a_packing_with_its_progress(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, packed = world / "config.yaml", f"packed={tmp_path / 'packed'}"
    calls: list[tuple[int, int]] = []
    packing = corank.pack(config, [packed], progress=lambda done, total: calls.append((done, total)))
    tables = viewed(packing)
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1)) and calls[-1][0] == calls[-1][1]
    assert all(done <= total for done, total in calls)
    assert tables["splits"]["candidates"].sum() == tables["levels"]["candidates"].sum() == 36000
    assert packing.packed.location == tmp_path / "packed"
    assert packing["bytes"] == sum(file.bytes for file in measure_files(packing.packed.folder).values())
    sizes = packing.packed.encoders.sizes
    assert dict(tables["embeddings"].iter_rows()) == sizes
    assert printed(capsys, "pack", str(config), "--set", packed, "--json") == packing.to_json() + "\n"


def test_a_bundle_that_is_exported_and_refreshed(
    trained: Run, tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, log = tmp_path / "bundle", str(world / "log/*.parquet")
    exported = printed(capsys, "export", str(trained.folder), str(path), "--json")
    result = BundleResult.of(Bundle.open(path), path)
    assert exported == result.to_json() + "\n"
    tables = viewed(result)
    assert tables["stages"]["stage"].to_list() == result["stages"] == ["prerank", "rank"]
    files = {path.name for path in result.bundle.folder.rglob("*") if path.is_file()}
    assert {Path(part).name for part in tables["parts"]["part"]} == files
    assert tables["priors"]["feature"].to_list() == list(result.bundle.manifest.priors)
    refreshed = corank.refresh(path, log)
    assert viewed(refreshed)["stages"].equals(tables["stages"]) and refreshed.location == path
    assert refreshed["model_version"] == result["model_version"]
    assert refreshed["items_seq"] == result["items_seq"] + 1
    again = json.loads(printed(capsys, "refresh", str(path), log, "--json"))
    assert again["items_seq"] == refreshed["items_seq"] + 1 and again["bundle"] == str(path)
