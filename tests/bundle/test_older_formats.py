"""Bundles of older formats: read where they mean the same, refused where they do not."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import corank
from corank.bundle.bundle import Bundle, measure_parts
from corank.bundle.manifest import FORMAT, digest
from corank.core.arrays import read_identifiers, write_frame
from corank.core.errors import BundleError
from corank.models.stage_model import StageModel
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.onnx_graphs import example_request, write_graph
from tests.support.cases import Case
from tests.support.command_line import run_corank
from tests.support.random_worlds import RICH
from tests.support.shared import derived, shared_case


def older(case: Case, folder: Path, number: int) -> Path:
    """A copy of a case's bundle that says it is of an older format."""
    bundle = Path(shutil.copytree(case.base / "bundle", folder / "bundle"))
    held = manifest(bundle) | {"format": number}
    content = bundle / held["content"]
    if number < 7:
        _write_arrow_files(content)
    for facts in held["stages"]:
        if facts["scorer"] == "graph":
            _write_whole_graph(case, content, facts["name"])
        elif number < 7:
            _keep_no_parts_but_vectors(case, content, facts)
    held["parts"] = {name: part.model_dump() for name, part in measure_parts(content).items()}
    if number < 5:
        del held["plugins"]
        for facts in held["stages"]:
            width = facts.pop("item_parts").get("vector")
            facts |= {"width": width, **(facts.pop("constants") or {"scale": None, "bias": None})}
            del facts["scorer"]
    (bundle / "manifest.json").write_text(json.dumps(held | {"digest": digest(held)}))
    return bundle


def _write_arrow_files(content: Path) -> None:
    """Write ids and vocabularies as formats before 7 did, in place of those of today."""
    _write_arrow(content / "items", "keys", read_identifiers(content / "items", "keys").alias("item"))
    encoders = json.loads((content / "encoders" / "encoders.json").read_bytes())
    for fields in (fields for fields in encoders.values() if fields["is"] == "vocabulary"):
        values = read_identifiers(content / "encoders", fields["file"]).alias("value")
        _write_arrow(content / "encoders", fields["file"], values)
        fields["file"] += ".arrow"
    (content / "encoders" / "encoders.json").write_text(json.dumps(encoders))


def _write_whole_graph(case: Case, content: Path, name: str) -> None:
    """Write the whole graph of a stage as formats before 8 did, under another name and without its value."""
    (content / f"{name}.value.onnx").unlink()
    whole = StageModel.graphs(case.model.network(name))[""]
    write_graph(content / f"{name}.onnx", whole, example_request(case.model, name))


def _keep_no_parts_but_vectors(case: Case, content: Path, facts: dict[str, Any]) -> None:
    """Change a stage to what formats before 7 had: vectors under another name, or a whole graph."""
    name = facts["name"]
    if "vector" in facts["item_parts"]:
        (content / f"{name}.value.onnx").unlink()
        facts["scorer"] = "vectors"
        (content / "items" / f"part.{name}.vector.npy").rename(content / "items" / f"vectors.{name}.npy")
    else:
        _write_whole_graph(case, content, name)
        (content / f"{name}.item.onnx").unlink()
        for part in facts["item_parts"]:
            (content / "items" / f"part.{name}.{part}.npy").unlink()
        facts |= {"scorer": "graph", "item_parts": {}}


def _write_arrow(folder: Path, name: str, values: pl.Series) -> None:
    """Write ids as formats before 7 did, in place of those of today."""
    for path in folder.glob(f"{name}.*"):
        path.unlink()
    write_frame(folder / f"{name}.arrow", values.to_frame())


def manifest(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return found


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers keep the same items in the same order, with scores that differ by rounding alone."""
    ids, scores = (
        [[item[key] for item in answer["items"]] for answer in (one, other)] for key in ("id", "score")
    )
    return ids[0] == ids[1] and scores[0] == pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize("number", [4, 5, 6])
def test_without_snapshot_features_it_ranks_and_refreshes_as_before(tmp_path: Path, number: int) -> None:
    case = shared_case(RICH)
    assert not [*case.packed.schema.row_features("snapshot")]
    request = Request.parse(case.request("test", 0))
    before = case.funnel.rank(request)
    bundle = older(case, tmp_path, number)
    assert close(Funnel.open(bundle).rank(request), before)
    assert Bundle.open(bundle).manifest.format == FORMAT
    corank.refresh(bundle, str(case.base / "log.parquet"), until="1970-01-05")
    assert manifest(bundle)["format"] == FORMAT
    assert not [name for name in manifest(bundle)["parts"] if name.endswith(".arrow")]
    assert close(Funnel.open(bundle).rank(request), before)


@pytest.mark.parametrize("number", [4, 5])
def test_snapshot_features_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    case = derived()
    name = next(iter(case.packed.schema.row_features("snapshot")))
    bundle = older(case, tmp_path, number)
    (tmp_path / "request.json").write_text(json.dumps(case.request("test", 0)))
    held = (bundle / "manifest.json").read_bytes()
    message = (
        f"manifest.json: format {number} has '{name}', which changes by snapshot, in the row of its item"
    )
    with pytest.raises(BundleError, match=message):
        Funnel.open(bundle)
    for command in (
        ("refresh", bundle, case.base / "log.parquet"),
        ("publish", bundle, f"lmdb:{tmp_path / 'store'}"),
        ("rank", bundle, tmp_path / "request.json"),
    ):
        code, _, err = run_corank(capsys, *command)
        assert code == 1 and message in err and err.endswith("export the bundle again\n"), command
    assert (bundle / "manifest.json").read_bytes() == held


def test_whole_graphs_of_format_7_rank_as_before_and_stay(tmp_path: Path) -> None:
    case = derived()
    whole = [stage.name for stage in case.funnel.manifest.stages if stage.scorer == "graph"]
    assert whole
    request = Request.parse(case.request("test", 0))
    before = case.funnel.rank(request)
    bundle = older(case, tmp_path, 7)
    assert close(Funnel.open(bundle).rank(request), before)
    corank.refresh(bundle, str(case.base / "log.parquet"), until="1970-01-05")
    assert {f"{name}.onnx" for name in whole} <= manifest(bundle)["parts"].keys()
    Funnel.open(bundle).rank(request)
