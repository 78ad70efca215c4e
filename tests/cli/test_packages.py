"""A package of a stranger adds names and commands as those of corank do: by an entry point."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

MODULE = '''
"""Tools of a shop."""
from corank.core.options import printed
from corank.core.package import Package

@printed("{result} requests of {log}")
def audit(log: str, most: int = 3) -> int:
    """Count the requests of a log.

    Args:
        log: its file.
        most: not to count more.
    """
    return most

def pack_up() -> str:
    """Pack everything up."""
    return "packed"

PACKAGE = Package(
    {"shop_tools": "audit"},
    {"Shop": {"audit": "shop_tools.audit", "shop pack": "shop_tools.pack_up"}},
    {"shop": "Tools of a shop."},
)
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an installed package."""
    (tmp_path / "shop_tools.py").write_text(MODULE)
    info = tmp_path / "shop_tools-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-tools\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[corank.packages]\nshop = shop_tools:PACKAGE\n")
    return tmp_path


def run(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the folder on its path."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100"}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)


def test_its_commands_are_listed_and_run(site: Path) -> None:
    shown = run(site, "-m", "corank", "--help").stdout
    assert "Count the requests of a log." in shown and "Tools of a shop." in shown and "Serve" in shown
    done = run(site, "-m", "corank", "audit", "shop.parquet", "--most", "2")
    assert (done.returncode, done.stderr) == (0, "2 requests of shop.parquet\n")
    assert run(site, "-m", "corank", "shop", "pack").stdout == "packed\n"
    assert (
        run(site, "-c", "import corank; print(corank.audit('a', 5), 'audit' in corank.__all__)").stdout
        == "5 True\n"
    )


def test_the_package_of_the_documentation_counts(site: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending" / "README.md").read_text(encoding="utf-8")
    _, _, module = page.partition("```python\n# shop_tools.py\n")
    (site / "shop_tools.py").write_text(module.partition("```")[0])
    log = site / "log.parquet"
    pl.DataFrame({"request_id": [1, 1, 2]}).write_parquet(log)
    assert "Tools of our shop." in run(site, "-m", "corank", "--help").stdout
    assert run(site, "-m", "corank", "shop", "count", str(log)).stderr == f"2 requests in {log}\n"
    assert run(site, "-c", f"import corank; print(corank.count_requests({str(log)!r}))").stdout == "2\n"


def test_one_that_cannot_be_imported_is_one_line(site: Path) -> None:
    (site / "shop_tools.py").write_text("import nothing_of_that_name\n")
    assert "shop.yaml" in run(site, "-m", "corank", "check", "shop.yaml").stderr  # which needs no package
    done = run(site, "-m", "corank", "publish", "bundle")
    assert done.returncode == 1
    assert done.stderr == (
        "error: entry point 'shop' of corank.packages cannot be imported: ModuleNotFoundError: "
        "No module named 'nothing_of_that_name'\n"
    )
    (site / "shop_tools.py").write_text(MODULE.replace("shop_tools.audit", "shop_tools.absent"))
    done = run(site, "-m", "corank", "--help")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "'shop_tools.absent'" in done.stderr
