"""What the release before wrote is read: from 0.1.0 on, each release reads the formats of the one before."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

import corank
from tests.golden.write import FOLDER

RELEASES = sorted(path.name.removesuffix(".tar.xz") for path in FOLDER.glob("*.tar.xz"))
"""The last one that was released, and this one's own once it is."""


@pytest.fixture(scope="module", params=RELEASES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release's files, elsewhere than they were written."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(FOLDER / f"{request.param}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / str(request.param)


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Any]:
    """What that release read out of them."""
    read: dict[str, Any] = json.loads((golden / "expected.json").read_text(encoding="utf-8"))
    return read


def assert_same(answer: dict[str, Any], before: dict[str, Any]) -> None:
    """Of two answers: the same items of the same version, and scores."""
    version = "model_version", "items_seq"
    assert [answer[key] for key in version] == [before[key] for key in version]
    items, scores = (
        [[one[key] for one in found["items"]] for found in (answer, before)] for key in ("id", "score")
    )
    assert items[0] == items[1] and scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("place", ["bundle", "lmdb:store"])
def test_a_bundle_and_a_store_rank_as_they_did(golden: Path, expected: dict[str, Any], place: str) -> None:
    kind, colon, name = place.rpartition(":")
    funnel = corank.Funnel.open(f"{kind}{colon}{golden / name}")
    for request, before in zip(expected["requests"], expected["answers"], strict=True):
        assert_same(funnel.rank(request), before)


def test_a_served_log_is_replayed(golden: Path, expected: dict[str, Any]) -> None:
    replayed = corank.replay(golden / "served", golden / "bundle")
    assert replayed["requests"] == len(expected["requests"]) and not replayed["differ"]


@pytest.mark.slow
def test_kept_predictions_of_a_run_are_read(golden: Path, expected: dict[str, Any]) -> None:
    """And its checkpoint is, if they are computed again."""
    rows = json.loads(corank.evaluate(golden / "run").to_json())["rows"]
    for row, before in zip(rows, expected["rows"], strict=True):
        for key in row.keys() - {"run", "low", "high"}:
            # processors differ in the last digits
            near = isinstance(before[key], float)
            assert row[key] == (pytest.approx(before[key], abs=1e-5) if near else before[key]), row


@pytest.mark.slow
def test_a_run_is_continued_with_its_packed_data(golden: Path, tmp_path: Path) -> None:
    packed = next((golden / "packed").iterdir())
    changes = [f"packed={packed}", "train.epochs=1"]
    trained = corank.train(
        golden / "config.yaml", changes, folder=tmp_path / "run", continue_from=golden / "run"
    )
    assert trained.run.finished
