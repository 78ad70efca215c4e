"""The commands end to end: on a tiny simulated world, and on real logs where CORANK_KUAIRAND names a slice."""

import json
import os
from pathlib import Path

import pytest

from corank.funnel.funnel import Funnel
from corank.testing.parity import assert_scored_as_evaluated
from corank.training.run import Run
from tests.support.command_line import run_corank

pytestmark = pytest.mark.slow

SLICE = os.environ.get("CORANK_KUAIRAND")


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
    rows = json.loads(run("evaluate", folder, "--json"))["rows"]
    aucs = [
        r["value"] for r in rows if (r["population"], r["label"], r["metric"]) == ("exposed", "click", "auc")
    ]
    assert len(aucs) == 2 and min(aucs) > 0.70
    run("export", folder, bundle)
    assert_scored_as_evaluated(Run.open(folder), Funnel.open(bundle), requests=50)
