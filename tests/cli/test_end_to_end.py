"""The commands end to end: on a tiny simulated world, and on real logs where CORANK_KUAIRAND names a slice."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from corank.analysis.logged_request import logged_request
from corank.evaluation.predict import predict_split
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.simulated_runs import NARROW
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

SLICE = os.environ.get("CORANK_KUAIRAND")


def assert_same_scores(run: Run, bundle: Path, split: str, requests: int) -> None:
    """The funnel's probabilities are the training model's, for the first requests of a split."""
    packed = run.packed()
    model, _ = run.model(packed)
    predictions = predict_split(model, packed, split)
    funnel, start = Funnel.open(bundle), predictions.requests.start
    for number in range(requests):
        rows = slice(start[number], start[number + 1])
        request = json.loads(json.dumps(logged_request(run, split, number)))
        for stage, labels in funnel.logits(Request.parse(request)).items():
            for label, logits in labels.items():
                theirs = predictions.logits[stage][label][rows]
                assert len(logits) == len(theirs)
                assert np.abs(expit(logits) - expit(theirs)).max() <= 1e-5, (number, stage, label)


def test_from_a_simulated_log_to_a_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> str:
        code, out, err = run_corank(capsys, *arguments)
        assert code == 0, err
        return out

    world, bundle = tmp_path / "world", tmp_path / "bundle"
    sizes = ["--requests", 800, "--candidates", 30, "--users", 40, "--items", 120]
    run("simulate", world, *sizes)
    config = world / "config.yaml"
    for wide, narrow in NARROW.items():
        config.write_text(config.read_text().replace(wide, narrow))
    assert "history" in run("check", config)
    run("pack", config)
    run("train", config, "--set", "train.epochs=1")
    folder = world / "runs" / "simulated-medium"
    document = json.loads(run("evaluate", folder, "--json"))
    assert document["split"] == "test"
    assert set(document["stages"]) == {"prerank", "rank"}
    run("export", folder, bundle)
    request: dict[str, Any] = json.loads(run("request", folder, "--number", 3))
    assert len(request["candidates"]) == 30
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    # as a user runs it: one JSON document on stdout, and nothing else anywhere
    command = [
        sys.executable,
        "-c",
        "from corank.cli.main import main; main()",
        "rank",
        bundle,
        path,
        "--json",
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert len(answer["items"]) == 6
    assert (answer["unknown"], answer["missing"]) == ([], [])
    assert {item["id"] for item in answer["items"]} <= {c["id"] for c in request["candidates"]}
    score = [item["score"] for item in answer["items"]]
    assert score == sorted(score, reverse=True)
    cuts = [entry["cut"] for entry in answer["trace"]]
    assert {cut: cuts.count(cut) for cut in set(cuts)} == {"prerank": 12, "rank": 12, None: 6}
    assert_same_scores(Run.open(folder), bundle, "test", requests=10)


@pytest.mark.thorough
@pytest.mark.realdata
@pytest.mark.skipif(SLICE is None, reason="CORANK_KUAIRAND does not name a folder of KuaiRand-Pure")
def test_from_real_logs_to_a_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> str:
        code, out, err = run_corank(capsys, *arguments)
        assert code == 0, err
        return out

    project, bundle = tmp_path / "kuairand", tmp_path / "bundle"
    run("import", "kuairand", SLICE, project)
    narrow = [
        "stages.0.query=[64, 32]",
        "stages.0.item=[64, 32]",
        "stages.1.hidden=[64, 32]",
        "train.epochs=1",
    ]
    run("train", project / "config.yaml", *(f"--set={override}" for override in narrow))
    folder = project / "runs" / "kuairand"
    stages = json.loads(run("evaluate", folder, "--json"))["stages"]
    for name in ("prerank", "rank"):
        assert stages[name]["exposed"]["click"]["auc"] > 0.70
    run("export", folder, bundle)
    assert_same_scores(Run.open(folder), bundle, "test", requests=50)
