"""Series of versions: those of a version that is served no more end, in one process and over the files of several."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from corank_serve.http.prometheus import KEEP_SECONDS, HeldSeries, Series, VersionGauge

now = [0.0]
registry = CollectorRegistry()
find = Series(registry).find
gauge = VersionGauge(find, lambda: now[0])
if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)

def held():
    exposed = CollectorRegistry()
    exposed.register(HeldSeries(registry))
    lines = generate_latest(exposed).decode().splitlines()
    found = {line.partition('model_version="')[2].partition('"')[0] for line in lines if "model_version" in line}
    assert any(line.startswith("corank_failed") for line in lines)
    return "+".join(sorted(found))

find("failed").inc()
seen = []
for live, seconds in [("a", 0), ("b", 1), ("b", KEEP_SECONDS), ("a", 1), ("c", 1), ("c", 2 * KEEP_SECONDS)]:
    now[0] += seconds
    find("request_seconds", live).observe(1)
    gauge.update(live)
    seen.append(held())
print(*seen)
"""


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_series_of_a_version_end_some_time_after_it_does(several: bool, tmp_path: Path) -> None:
    # in a process of its own: prometheus_client reads once whether figures go to files
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if several else {}
    command = [sys.executable, "-c", PROGRAM]
    from_here = {"PYTHONPATH": ":".join(sys.path)} | environment
    done = subprocess.run(command, env=from_here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["a", "a+b", "b", "a+b", "a+b+c", "c"]
