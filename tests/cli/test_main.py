"""The command line: stdout, stderr and exit status."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from corank.bundle.manifest import BundleManifest
from corank.training.run import Run
from tests.support.command_line import run_corank


class Said(NamedTuple):
    code: int
    out: str
    err: str


Corank = Callable[..., Said]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Corank:
    return lambda *arguments: Said(*run_corank(capsys, *arguments))


@pytest.fixture(scope="session")
def bundle(trained_bundle: Path) -> Path:
    return trained_bundle


def refused(said: Said, *parts: str) -> None:
    """Exit 1, one message on stderr, nothing on stdout."""
    assert said.code == 1 and said.out == ""
    assert said.err.startswith("error: ") and "Traceback" not in said.err, said.err
    for part in parts:
        assert part in said.err, said.err


def document(said: Said) -> Any:
    """Exactly one JSON document, and no NaN, which JSON has not."""
    assert said.code == 0, said.err

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(said.out, parse_constant=refuse)


def test_mistakes_about_runs(world: Path, trained: Run, tmp_path: Path, command: Corank) -> None:
    config = world / "config.yaml"
    refused(command("train", config, "--run", config / "x"), "cannot be written: ", "name another with --run")
    shutil.copytree(trained.folder, tmp_path / "run")
    content = json.loads((trained.folder / "run.json").read_text()) | {"base": str(world)}
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    (model,) = (tmp_path / "run" / "model").glob("*/shard-00000-of-00001.safetensors")
    model.write_bytes(model.read_bytes()[:-1])
    # figures of what was predicted before it was damaged need no weights
    shutil.rmtree(tmp_path / "run" / "predictions", ignore_errors=True)
    refused(command("evaluate", tmp_path / "run"), f"{model}: damaged, or of another version (")


USAGE = [
    ["nonsense"],
    ["train"],
    ["evaluate", "run", "--bogus"],
    ["simulate", "out", "--requests", "0"],
    ["simulate", "out", "--requests", "10.5"],
    ["request", "run", "--number", "1.5"],
    ["serve", "bundle", "--port", "8000.5"],
    ["train", "a.yaml", "--resume", "--overwrite"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_exits_with_2(command: Corank, arguments: list[str]) -> None:
    said = command(*arguments)
    assert said.code == 2 and said.out == "" and "─ Error ─" in said.err and "Traceback" not in said.err


def test_the_version_is_told(command: Corank) -> None:
    said = command("--version")
    release, commit, formats = said.out.splitlines()
    assert said.code == 0 and release == f"corank {version('corank')}"
    assert re.fullmatch("commit ([0-9a-f]{12}(-dirty)?|unknown)", commit)
    assert f"bundle {BundleManifest.written_format()}" in formats


@pytest.mark.slow
def test_help_is_written_at_once_so_that_one_who_reads_a_line_of_it_breaks_no_pipe() -> None:
    for words in (["--help"], ["train", "--help"]):
        help_ = shlex.join([sys.executable, "-u", "-m", "corank", *words])
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{help_} | head -1"], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Usage: corank")


def test_help_names_every_verb(command: Corank) -> None:
    said = command("--help")
    assert said.code == 0
    for verb in ("simulate", "import", "check", "pack", "train", "evaluate", "export", "request", "rank"):
        assert f" {verb} " in said.out
        assert command(verb, "--help").code == 0


def test_json_is_one_document(trained: Run, bundle: Path, tmp_path: Path, command: Corank) -> None:
    evaluation = document(command("evaluate", trained.folder, "--json"))
    assert evaluation["run"]["split"] == "test" and evaluation["run"]["stages"] == ["prerank", "rank"]
    valid = document(command("evaluate", trained.folder, "--json", "--split", "valid"))
    assert {row["split"] for row in valid["rows"]} == {"valid"}
    asked = command("request", trained.folder, "--number", 3)
    logged = document(asked)
    assert logged["user"]["id"] >= 0
    assert document(command("request", trained.folder, "--number", 3, "--now")) == {
        key: value for key, value in logged.items() if key != "time"
    }
    (tmp_path / "request.json").write_text(asked.out, encoding="utf-8")
    answer = document(command("rank", bundle, tmp_path / "request.json", "--json"))
    assert len(answer["items"]) == 6 and answer["model_version"]


def test_tables_are_what_the_json_says(trained: Run, bundle: Path, tmp_path: Path, command: Corank) -> None:
    evaluation = document(command("evaluate", trained.folder, "--json"))
    shown = command("evaluate", trained.folder)
    assert shown.code == 0
    said = [row["value"] for row in evaluation["rows"] if row["metric"] in ("auc", "kendall_tau")]
    assert len(said) == 5 and all(f"{value:.4f}" in shown.out for value in said)
    request = tmp_path / "request.json"
    request.write_text(command("request", trained.folder).out, encoding="utf-8")
    answer = document(command("rank", bundle, request, "--json"))
    shown = command("rank", bundle, request)
    assert f"model {answer['model_version']}  items 1" in shown.out
    assert f"{answer['items'][0]['score']:.5f}" in shown.out
    assert "prerank cut 12 of 30" in shown.out and "rank cut 12 of 18" in shown.out


def test_a_command_that_was_left_out_names_what_to_do(command: Corank) -> None:
    said = command("study", "shop.yaml", "--questions", "6")
    assert said.code == 2 and said.out == "" and "no command 'study' any more" in said.err
    assert "corank experiment CONFIG NAME" in said.err and "consistency" in said.err
