"""The series of a version ends once it is served no more, in one process and over the files of several."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from corank_serve.http.prometheus import Series, ServedVersions

registry = CollectorRegistry()
find = Series(registry).find
if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
exposed = CollectorRegistry()
exposed.register(ServedVersions(registry))
find("failed").inc()
for version, served in [("a", 1), ("b", 1), ("a", 0)]:
    find("version", version).set(served)
print(generate_latest(exposed).decode())
"""


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_the_series_of_a_version_ends_with_it(several: bool, tmp_path: Path) -> None:
    # in a process of its own: prometheus_client reads once whether figures go to files
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if several else {}
    command = [sys.executable, "-c", PROGRAM]
    from_here = {"PYTHONPATH": ":".join(sys.path)} | environment
    done = subprocess.run(command, env=from_here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'model_version="b"} 1.0' in done.stdout and 'model_version="a"' not in done.stdout
    assert "corank_failed_total 1.0" in done.stdout
