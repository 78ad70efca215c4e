"""The reference clients agree with the funnel, step by step, and refuse what they cannot read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import corank
from corank.serving.conformance.drawn_requests import draw_requests
from tests.support.random_worlds import DERIVED, LISTED
from tests.support.reference_clients import compare, cpp_client, node_client, rank_lines, refusal
from tests.support.shared import derived, shared_case

TOLERANCE = 1e-5
WORLDS = {"columns": DERIVED, "lists": LISTED}


@pytest.fixture(scope="module", params=["node", "cpp"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return node_client() if request.param == "node" else cpp_client(tmp_path_factory.mktemp("cpp"))


@pytest.mark.parametrize("world", WORLDS)
def test_every_step_agrees(client: list[str], tmp_path: Path, world: str) -> None:
    bundle = shared_case(WORLDS[world]).base / "bundle"
    corank.conformance(bundle, tmp_path / "cases.jsonl", number=25)
    found = compare(client, bundle, tmp_path / "cases.jsonl")
    assert found.pop("cases") == 25
    assert max(found.values()) <= TOLERANCE, found
    assert {"query", "described", "cross", "events", "probabilities", "values", "answers"} == found.keys()


def test_requests_get_answers_and_mistakes_an_error(client: list[str]) -> None:
    funnel = derived().funnel
    requests = [*draw_requests(funnel, 5, 3)]
    wrong = requests[0] | {"user": requests[0]["user"] | {"colour": 1}}
    *answers, refused = rank_lines(client, derived().base / "bundle", [*requests, wrong])
    assert refused == {"error": "user: the bundle knows no 'colour' here"}
    for request, answer in zip(requests, answers, strict=True):
        wanted = funnel.rank(request)
        assert [item["id"] for item in answer["items"]] == [item["id"] for item in wanted["items"]]
        np.testing.assert_allclose(
            [item["score"] for item in answer["items"]],
            [item["score"] for item in wanted["items"]],
            atol=1e-5,
        )
        assert {k: answer[k] for k in answer if k != "items"} == {
            k: wanted[k] for k in answer if k != "items"
        }


def test_a_damaged_part_and_another_format_are_refused(client: list[str], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(derived().base / "bundle", tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    part = bundle / manifest["content"] / "items" / "ids.npy"
    raw = bytearray(part.read_bytes())
    raw[-1] ^= 1
    part.write_bytes(raw)
    assert "items/ids.npy: damaged, or of another version" in refusal(client, bundle)
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"format": 8}))
    assert "format 8; this reader reads format 7" in refusal(client, bundle)
