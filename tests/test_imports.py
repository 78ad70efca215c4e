"""The files of the package in the order of the data's flow: an import points upward in this list, and nowhere else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import corank

ROOT = Path(corank.__file__).parent

LINES = (
    "errors settings value features",
    "schema rows tables lookup vocabulary scale arrays encode history operands cross labels prior survey fit versions",
    "requests inputs packed past shards derive pack",
    "layout sampling negatives batch reader embedding tower din dcn prerank rank teacher place joint",
    "losses.term losses.lists losses.click losses.unexposed losses.in_batch losses.distill losses.levels",
    "losses.relaxation losses.cascade losses.total losses",
    "retrieval optimise config config_file check checkpoint",
    "metrics.measure metrics.point metrics.requests metrics.cascade metrics.joint metrics.gain metrics.kendall",
    "metrics.quota metrics.regret metrics.reliability metrics.bootstrap metrics",
    "calibrate predict ordering evaluate run train",
    "bundle records vectors items retrieve export asked recall receive scorer deadline ranked shown funnel catalogue",
    "newer refresh replay",
    "stores.lmdb stores.redis stores codec head publish fetch aside upkeep users served recompute operate",
    "bodies follow gauges example openapi funnel_page service serve",
    "price explain page plots cost judged curves report",
    "arms contrasts trials answers study study_page",
    "world production traffic simulate recflow_format",
    "importers importers.whole importers.kuairand importers.recflow_files importers.recflow",
    "verbs screen screen_store cli_common cli_serve cli",
)
ORDER = " ".join(LINES).split()


def name(file: Path) -> str:
    """The dotted name within the package; a package's own file has the package's."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name(file): file for file in sorted(ROOT.rglob("*.py"))}


def imported(file: Path) -> set[str]:
    """The package's files that a file imports, anywhere in it, be it for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {full for full in whole if full.removeprefix("corank.") in FILES}
            found |= modules | ({node.module or ""} if len(modules) < len(whole) else set())
    return {full.removeprefix("corank.") for full in found if full.startswith("corank.")}


def test_the_list_holds_every_file_once() -> None:
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == FILES.keys() - {""}


@pytest.mark.parametrize("at", range(len(ORDER)), ids=ORDER)
def test_imports_point_upward(at: int) -> None:
    above = set(ORDER[:at])
    below = imported(FILES[ORDER[at]]) - above
    assert not below, f"{ORDER[at]} imports {', '.join(sorted(below))}, which are not above it"


def test_the_package_itself_imports_nothing() -> None:
    assert imported(FILES[""]) == set()


def test_the_imports_are_found(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import torch, corank.rows\nfrom corank import metrics, __version__\n"
        "def f():\n    from corank.losses.term import Term\n    from corank.losses import click, Loss\n"
    )
    assert imported(file) == {"rows", "metrics", "losses.term", "losses.click", "losses"}


def loaded(module: str) -> set[str]:
    """The top-level modules in memory after a fresh process has imported one."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_service_loads_no_torch() -> None:
    found = loaded("corank.serving.funnel.funnel")
    assert "onnxruntime" in found
    assert found.isdisjoint({"torch", "sklearn", "tensorboard", "onnx", "onnxscript", "typer", "rich"})


def test_the_command_line_loads_what_a_verb_needs_only_when_it_runs() -> None:
    found = loaded("corank.cli.main")
    assert found.isdisjoint({"torch", "onnxruntime", "scipy", "sklearn"})
