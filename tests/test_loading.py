"""What a fresh process loads: no more than it uses."""

import ast
import inspect
import subprocess
import sys

import pytest

import corank

RANKS = {"numpy", "polars", "pyarrow", "onnxruntime", "uvicorn", "prometheus_client"}
TRAINS = {"torch", "sklearn", "scipy", "tensorboard", "onnx", "onnxscript"}


def loaded(code: str) -> set[str]:
    """The top-level modules in memory after a fresh process has run some code."""
    code = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


VIEWS = (
    "run_evaluation",
    "score_comparison",
    "evaluation_view",
    "explanation_view",
    "html",
    "experiments.views",
)


@pytest.mark.parametrize(
    ("modules", "present", "absent"),
    [
        ("corank", "corank", {*RANKS, *TRAINS, "pydantic"}),
        ("corank_serve.http.worker", "onnxruntime", {*TRAINS, "cyclopts", "rich"}),
        # the parent of workers runs as long as the service
        ("corank_serve.api.serving", "pydantic", {*RANKS, *TRAINS}),
        ("corank.cli.main", "cyclopts", {*RANKS, *TRAINS, "pydantic"}),
        # what compares runs, and what a command prints
        (
            ", ".join(f"corank.analysis.{name}" for name in VIEWS),
            "polars",
            {*TRAINS, "onnxruntime", "matplotlib"},
        ),
        ("corank.training.config.config", "pydantic", TRAINS),
    ],
)
def test_a_module_loads_only_what_it_uses(modules: str, present: str, absent: set[str]) -> None:
    found = loaded(f"import {modules}")
    assert present in found and found.isdisjoint(absent)


@pytest.mark.parametrize(
    "commands", [[""], ["train", "evaluate", "explain", "tune", "simulate", "serve", "store ls"]]
)
def test_a_help_page_loads_nothing_heavy(commands: list[str]) -> None:
    modules = loaded(
        "from contextlib import redirect_stdout, suppress\nfrom io import StringIO\n"
        f"from corank.cli.main import build_app\nfor command in {commands}:\n"
        "  with redirect_stdout(StringIO()) as page, suppress(SystemExit): build_app()([*command.split(), '--help'])\n"
        "  assert 'Usage' in page.getvalue()"
    )
    assert modules.isdisjoint(TRAINS if any(commands) else {*RANKS, *TRAINS, "pydantic", "yaml"})


def test_a_command_that_returns_nothing_loads_nothing_to_print_it() -> None:
    """A service that ends would wait for it."""
    code = "from corank.cli.commands import print_result\nassert print_result(None, False, print) == 0"
    assert loaded(code).isdisjoint({*RANKS, *TRAINS})


def test_public_names_are_there() -> None:
    for name in corank.__all__:
        assert getattr(corank, name)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = corank.absent


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    imports = [
        node for node in ast.walk(ast.parse(inspect.getsource(corank))) if isinstance(node, ast.ImportFrom)
    ]
    seen = {alias.asname: node.module for node in imports for alias in node.names if alias.asname}
    assert seen == {**corank.public_modules(), "config": "corank"}
    assert set(corank.__all__) == {*corank.public_modules(), "__version__"}
