"""The reader in C++ agrees with the funnel, step by step, and refuses what it cannot read."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import corank
from corank.bundle.content import part_file
from corank.core.artifact import digest, measure_files
from corank.core.page import PageSettings
from corank.core.settings import validate
from corank.core.stored_matrix import StoredMatrix, write_matrix
from corank.funnel.funnel import Funnel
from corank.funnel.random_requests import draw_requests
from corank.funnel.request import Request
from tests.lab.worlds import WORLDS as LAB
from tests.support.boosted_runs import grown_run
from tests.support.random_worlds import DERIVED, LISTED, PAGED
from tests.support.reference_clients import (
    CPP_PROGRAM,
    compare,
    cpp_client,
    rank_lines,
    refusal,
    require_cpp,
)
from tests.support.shared import derived, shared, shared_case

TOLERANCE = 1e-5
WORLDS = {
    "columns": DERIVED,
    "lists": LISTED,
    "page": PAGED,
    "ages of events": LAB["members and encoded events"],
}


@pytest.fixture(scope="module")
def client() -> list[str]:
    require_cpp()
    return [str(shared("cpp_client", cpp_client) / CPP_PROGRAM)]


@pytest.mark.parametrize("world", WORLDS)
def test_every_step_agrees(client: list[str], tmp_path: Path, world: str) -> None:
    bundle = shared_case(WORLDS[world]).base / "bundle"
    corank.conformance(bundle, tmp_path / "cases.jsonl", number=25)
    differences = compare(client, bundle, tmp_path / "cases.jsonl")
    assert max(differences.values()) <= TOLERANCE, differences
    encoded = max(differences[step] for step in ("query", "described", "cross", "events"))
    assert encoded <= 1e-6, "the same arithmetic in the same order, but for a library's last bit"


PAGES: list[dict[str, Any]] = [
    {"method": "mmr", "by": "item_3", "lambda": 0.4, "rules": [{"slot": 1, "of": "item_1", "never": True}]},
    {"method": "dpp", "by": "item_0", "rules": [{"at_most": 1, "of": "item_0", "within": 2}]},
    {
        "method": "mmr",
        "by": "item_2",
        "rules": [{"at_least": 1, "of": "item_1"}, {"slot": 3, "of": "item_0"}],
    },
    {"rules": [{"at_most": 2, "of": "item_1"}, {"at_most": 1, "of": "item_2", "within": 3}]},
]


@pytest.mark.parametrize("page", PAGES)
def test_pages_agree(client: list[str], tmp_path: Path, page: dict[str, Any]) -> None:
    bundle = Path(shutil.copytree(shared_case(PAGED).base / "bundle", tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    settings = validate(PageSettings, {"name": "page", "keep": 5} | page, "page")
    manifest["page"] = settings.model_dump(mode="json", by_alias=True)
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"digest": digest(manifest)}))
    funnel = Funnel.open(bundle)
    requests = [*draw_requests(funnel, 40, 3)]
    for request, answer in zip(requests, rank_lines(client, bundle, requests), strict=True):
        assert [item["id"] for item in answer["items"]] == funnel.run(Request.parse(request)).ids


def test_boosted_trees_agree(client: list[str], tmp_path: Path) -> None:
    corank.export(grown_run().folder, tmp_path / "bundle")
    corank.conformance(tmp_path / "bundle", tmp_path / "cases.jsonl", number=25)
    differences = compare(client, tmp_path / "bundle", tmp_path / "cases.jsonl")
    assert max(differences.values()) <= TOLERANCE, differences


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_item_parts_of_less_than_fp32_agree(
    client: list[str], tmp_path: Path, precision: Literal["fp16", "int8"]
) -> None:
    bundle = _lower_parts(derived().base / "bundle", tmp_path / "bundle", precision)
    corank.conformance(bundle, tmp_path / "cases.jsonl", number=5)
    assert any(json.loads(case)["described"] for case in (tmp_path / "cases.jsonl").read_text().splitlines())
    differences = compare(client, bundle, tmp_path / "cases.jsonl")
    assert max(differences.values()) <= TOLERANCE, differences


def _lower_parts(bundle: Path, copy: Path, precision: Literal["fp16", "int8"]) -> Path:
    """A copy of a bundle that stores its item parts at another precision."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    content = copy / manifest["content"]
    for stage in manifest["stages"]:
        stage["precision"] = dict.fromkeys(stage["item_parts"], precision)
        for part in stage["item_parts"]:
            path = part_file(content, f"{stage['name']}.{part}")
            write_matrix(path, StoredMatrix.encode(np.load(path), precision))
    assert any(stage["precision"] for stage in manifest["stages"])
    manifest["files"] = {name: file.model_dump() for name, file in measure_files(content).items()}
    (copy / "manifest.json").write_text(json.dumps(manifest | {"digest": digest(manifest)}))
    return copy


def test_requests_get_answers_and_mistakes_an_error(client: list[str]) -> None:
    funnel = derived().funnel
    requests = [*draw_requests(funnel, 5, 3)]
    wrong = requests[0] | {"user": requests[0]["user"] | {"colour": 1}}
    *answers, refused = rank_lines(client, derived().base / "bundle", [*requests, wrong])
    assert refused == {"error": "user: the bundle knows no 'colour' here"}
    for request, answer in zip(requests, answers, strict=True):
        wanted = funnel.rank(request)
        assert [item["id"] for item in answer["items"]] == [item["id"] for item in wanted["items"]]
        ours, theirs = ([item["score"] for item in one["items"]] for one in (answer, wanted))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert answer | {"items": wanted["items"]} == {key: wanted[key] for key in answer}


def test_a_damaged_part_and_another_format_are_refused(client: list[str], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(derived().base / "bundle", tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    part = bundle / manifest["content"] / "items" / "ids.npy"
    raw = bytearray(part.read_bytes())
    raw[-1] ^= 1
    part.write_bytes(raw)
    assert "items/ids.npy: damaged, or of another version" in refusal(client, bundle)
    form = manifest["format"]
    for other in ({"format": form - 1}, {"kind": "packed data"}):
        (bundle / "manifest.json").write_text(json.dumps(manifest | other))
        assert f"; this reader reads a bundle of format {form}" in refusal(client, bundle)


def test_the_runtime_reports_nothing(
    client: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it may report, it keeps a number of the machine and a database of events in the user's cache."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    assert derived().funnel
    rank_lines(client, derived().base / "bundle", [])
    assert [*tmp_path.iterdir()] == []
