"""A package imports those that its row names, and nothing else; torch is imported in seven packages alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import corank

ROOT = Path(corank.__file__).parent

MAY_IMPORT = {
    "core": "",
    "engine": "core",
    "distributed": "core",
    "features": "core",
    "data": "core engine features",
    "bundle": "core engine features data",
    "batches": "core distributed features data",
    "models": "core distributed features batches",
    "losses": "core distributed batches models",
    "metrics": "core",
    "evaluation": "core engine distributed features data batches models metrics",
    "training": "core engine distributed features data bundle batches models losses metrics evaluation",
    "serving": "core engine features data bundle",
    "analysis": "core distributed features data bundle batches models losses metrics evaluation training serving",
    "datasets": "core features",
    "api": (
        "core engine distributed features data bundle batches models losses metrics evaluation training serving "
        "analysis datasets"
    ),
    "continual": (
        "core engine distributed features data bundle batches models losses metrics evaluation training serving "
        "analysis datasets api"
    ),
    "cli": (
        "core engine distributed features data bundle batches models losses metrics evaluation training serving "
        "analysis datasets api continual"
    ),
}
"""In the order of the data's flow."""

MAY_IMPORT_TORCH = {"distributed", "batches", "models", "losses", "evaluation", "training", "analysis"}


def files(package: str) -> list[Path]:
    """The files of a package; those that lie in no package for ""."""
    return sorted((ROOT / package).rglob("*.py") if package else ROOT.glob("*.py"))


def imported(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, even for types alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def when_loaded(file: Path) -> set[str]:
    """The modules that a file imports at its first level: when it is imported itself, and not for types alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    froms = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return names | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}


def packages(modules: set[str]) -> set[str]:
    """The packages of corank among imported modules; the version, which every package may read, is none."""
    own = {name.split(".")[1] for name in modules if name.startswith("corank.")}
    return own


def test_every_folder_has_a_row() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == MAY_IMPORT.keys()


def test_the_table_points_upward() -> None:
    order = list(MAY_IMPORT)
    for at, allowed in enumerate(MAY_IMPORT.values()):
        assert set(allowed.split()) <= set(order[:at])


@pytest.mark.parametrize("package", ["", *MAY_IMPORT])
def test_a_package_imports_what_its_row_names(package: str) -> None:
    # the public names, the parts of a config, and `python -m corank`
    public = {
        *["config", "core", "features", "losses", "models", "training", "serving", "api", "continual", "cli"]
    }
    allowed = {*MAY_IMPORT[package].split(), package} if package else public
    strange = {
        str(file.relative_to(ROOT)): names
        for file in files(package)
        if (names := packages(imported(file)) - allowed)
    }
    assert strange == {}


@pytest.mark.parametrize("package", ["", *sorted(MAY_IMPORT.keys() - MAY_IMPORT_TORCH)])
def test_torch_is_imported_where_models_are(package: str) -> None:
    importers = {
        str(file.relative_to(ROOT))
        for file in files(package)
        if any(name.split(".")[0] == "torch" for name in imported(file))
    }
    assert importers == set()


@pytest.mark.parametrize("folder", ["losses/settings", "models/settings"])
def test_settings_import_torch_for_types_alone(folder: str) -> None:
    """A config is checked without torch, which is imported where a network is built or a loss computed."""
    heavy = {
        f"corank.{package}.{file.stem}"
        for package in ("losses", "models", "batches")
        for file in (ROOT / package).glob("*.py")
        if any(name.split(".")[0] == "torch" for name in when_loaded(file))
    }
    assert len(heavy) > 10
    importers = {
        str(file.relative_to(ROOT)): names
        for file in files(folder)
        if (
            names := {
                n for n in when_loaded(file) if n.split(".")[0] == "torch" or n.rpartition(".")[0] in heavy
            }
        )
    }
    assert importers == {}


def test_no_test_imports_a_benchmark() -> None:
    importers = {
        str(file)
        for file in Path(__file__).parent.rglob("*.py")
        if any(name.split(".")[0] == "benchmarks" for name in imported(file))
    }
    assert importers == set()


def test_imports_are_found(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import torch, corank.core\nfrom corank import metrics, __version__\n"
        "def f():\n    from corank.losses.base import Term\n"
    )
    names = imported(file)
    assert {"torch", "corank.core"} <= names
    assert packages(names) == {"core", "metrics", "losses"}


def loaded(module: str) -> set[str]:
    """The top-level modules in memory after a fresh process has imported one."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_service_loads_no_torch() -> None:
    modules = loaded("corank.serving.http.worker")
    assert "onnxruntime" in modules
    assert modules.isdisjoint({"torch", "sklearn", "tensorboard", "onnx", "onnxscript", "typer", "rich"})


def test_the_parent_of_workers_loads_nothing_that_ranks() -> None:
    """The parent runs as long as the service."""
    modules = loaded("corank.api.serving")
    assert "pydantic" in modules
    assert modules.isdisjoint({"numpy", "polars", "pyarrow", "onnxruntime", "uvicorn", "prometheus_client"})


def test_the_command_line_loads_what_a_command_needs_only_when_it_runs() -> None:
    modules = loaded("corank.cli.main")
    assert modules.isdisjoint({"torch", "onnxruntime", "scipy", "sklearn"})


@pytest.mark.parametrize("command", ["", "train", "simulate", "serve", "store ls"])
def test_a_help_page_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom contextlib import redirect_stdout, suppress\nfrom io import StringIO\n"
        "from corank.cli.main import app\n"
        f"with redirect_stdout(StringIO()) as page, suppress(SystemExit): app({[*command.split(), '--help']})\n"
        "assert 'Usage' in page.getvalue()\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "typer" in modules
    assert modules.isdisjoint({"numpy", "polars", "pyarrow", "torch", "yaml"})
    assert command or "pydantic" not in modules  # Typer itself reads a command's options with it


def test_the_package_loads_nothing_heavy() -> None:
    assert loaded("corank").isdisjoint({"numpy", "polars", "torch", "pydantic", "onnxruntime"})


def test_public_names_are_there() -> None:
    for name in corank.__all__:
        assert getattr(corank, name)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = corank.absent
