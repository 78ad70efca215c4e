"""The plug-ins of examples/plugins, one of each sort, through every command together, as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from corank.datasets.simulate import simulate_world
from tests.support.http_parity import TOLERANCE
from tests.support.service import running_service

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
Command = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated world with the plug-ins and their config beside its tables."""
    out = tmp_path_factory.mktemp("plugins") / "world"
    simulate_world(out, requests=600, candidates=30, users=40, items=120)
    for file in [*EXAMPLES.glob("*.py"), EXAMPLES / "plugins.yaml"]:
        shutil.copy(file, out)
    return out


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """Modules beside the config are found by commands that read no config, too."""
    path = os.pathsep.join([str(folder), str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def command(folder: Path, environment: dict[str, str]) -> Command:
    """Runs `corank` in a process of its own and returns what it prints."""

    def run(*arguments: object, code: int = 0) -> str:
        words = [sys.executable, "-m", "corank", *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout

    return run


NARROW = ["--set", "stages.0.keep=18", "--set", "stages.1.keep=6", "--set", "train.requests=64"]
WITH = ["--plugin", "cyclical_time"]
STORE = ["--plugin", "cyclical_time", "--plugin", "folder_store"]


@pytest.fixture(scope="module")
def bundle(command: Command, folder: Path) -> Path:
    """Trained and exported."""
    command("train", "plugins.yaml", "--run", "run", *NARROW)
    command("export", "run", "bundle")
    return folder / "bundle"


def test_a_metric_stops_training_and_is_evaluated(command: Command, bundle: Path) -> None:
    document = json.loads(command("evaluate", "run", "--json"))
    for stage in ("prerank", "rank"):
        figures = document["stages"][stage]["exposed"]["click"]
        assert 0 < figures["average_precision"] <= 1
        low, high = document["interval"]["stages"][stage]["exposed"]["click"]["average_precision"]
        assert low <= figures["average_precision"] <= high
    assert "average_precision" in command("evaluate", "run")


def test_a_bundle_ranks(command: Command, bundle: Path, folder: Path) -> None:
    request = command("request", "run")
    assert "hour" in json.loads(request)["context"]
    (folder / "request.json").write_text(request, encoding="utf-8")
    answer = json.loads(command(*WITH, "rank", "bundle", "request.json", "--json"))
    assert len(answer["items"]) == 6 and answer["missing"] == answer["unknown"] == []


def test_a_bundle_names_the_plugin_that_it_lacks(command: Command, bundle: Path, folder: Path) -> None:
    (folder / "any.json").write_text("{}", encoding="utf-8")
    told = command("rank", "bundle", "any.json", code=1)
    assert "cyclical" in told and "--plugin" in told


PARITY = """
import sys
from pathlib import Path
from corank.training.run import Run
from tests.support.http_parity import parity
found = parity(Run.open(Path("run")), sys.argv[1], 20)
print(found["scores"], found["largest"])
"""


def test_a_store_is_published_to_and_serves_what_was_evaluated(
    command: Command,
    bundle: Path,
    folder: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command(*STORE, "publish", "bundle", f"folder:{folder / 'store'}")
    assert "live" in command(*STORE, "store", "ls", f"folder:{folder / 'store'}")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    monkeypatch.setenv("CORANK_PLUGINS", "cyclical_time,folder_store")
    with running_service(f"folder:{folder / 'store'}", folder / "cache") as (url, _):
        script = [sys.executable, "-c", PARITY, url]
        done = subprocess.run(
            script, capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
    assert done.returncode == 0, done.stderr
    scores, largest = done.stdout.split()
    assert int(scores) == 20 * (30 + 18)
    assert float(largest) < TOLERANCE


def test_a_study_compares_by_the_metric(command: Command, bundle: Path) -> None:
    narrow = ["--set", "stages.0.factors=4", "--set", "stages.1.factors=4", *NARROW]
    budget = ["--questions", "6", "--rates", "1", "--seeds", "1", "--out", "study"]
    document = json.loads(command("study", "plugins.yaml", *budget, *narrow, "--json"))
    assert any("average precision" in title for title in document["metrics"].values())


def test_an_importer_makes_a_config_that_trains(command: Command, folder: Path) -> None:
    log = pl.DataFrame(
        {
            "time": [f"2026-03-{day:02}T10:00:00" for day in range(1, 9) for _ in range(12)],
            "user": [n % 7 for n in range(96)],
            "tab": ["home"] * 96,
            "items": [
                [{"id": (n + k) % 11, "topic": "news", "clicked": (n + k) % 3 == 0} for k in range(4)]
                for n in range(96)
            ],
        }
    )
    log.write_ndjson(folder / "pages.jsonl")
    assert "pages" in command("--plugin", "page_log", "import", "--help")
    command("--plugin", "page_log", "import", "pages", "pages.jsonl", "imported", "--days", 2)
    command("train", "imported/config.yaml")
    document = json.loads(command("evaluate", "imported/runs/pages", "--json"))
    assert document["candidates"] == 2 * 12 * 4


def test_an_importer_names_what_is_wrong(command: Command, folder: Path) -> None:
    (folder / "bad.jsonl").write_text("{]", encoding="utf-8")
    told = command("--plugin", "page_log", "import", "pages", "bad.jsonl", "nothing", code=1)
    assert "bad.jsonl: no log of pages" in told and not (folder / "nothing").exists()
