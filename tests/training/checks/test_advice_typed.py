"""What import and check say to type on logs of one's own, typed: it works, and the line is gone."""

import json
import subprocess
import sys

import pytest

from supply_chain.lock import ROOT


@pytest.mark.thorough
def test_every_line_works_as_typed() -> None:
    logs = ["small200", "returns", "leaked", "rows"]
    command = [sys.executable, "-m", "benchmarks.quality.advice", "--json", f"--only={','.join(logs)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)["figures"]
    assert figures["faults"] == 0 and sum(figures[f"{log}.typed"] for log in logs) > 4, done.stderr
