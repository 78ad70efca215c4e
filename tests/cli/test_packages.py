"""A package of a stranger adds names and commands as those of corank do: by an entry point."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

MODULE = (Path(__file__).parents[2] / "examples" / "plugins" / "shop_tools.py").read_text(encoding="utf-8")
"""The package that docs/extending shows."""


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
    log = site / "log.parquet"
    pl.DataFrame({"request_id": [1, 1, 2], "shop": [1, 1, 1]}).write_parquet(log)
    shown = run(site, "-m", "corank", "--help").stdout
    assert "Tools of our shop." in shown and "Serve" in shown
    done = run(site, "-m", "corank", "shop", "count", str(log), "--column", "shop")
    assert (done.returncode, done.stderr) == (0, f"1 requests in {log}\n")
    code = f"import corank; print(corank.count_requests({str(log)!r}), 'count_requests' in corank.__all__)"
    assert run(site, "-c", code).stdout == "2 True\n"


def test_one_that_cannot_be_imported_is_one_line(site: Path) -> None:
    (site / "shop_tools.py").write_text("import nothing_of_that_name\n")
    assert "shop.yaml" in run(site, "-m", "corank", "check", "shop.yaml").stderr  # which needs no package
    done = run(site, "-m", "corank", "publish", "bundle")
    assert done.returncode == 1
    assert done.stderr == (
        "error: entry point 'shop' of corank.packages cannot be imported: ModuleNotFoundError: "
        "No module named 'nothing_of_that_name'\n"
    )
    (site / "shop_tools.py").write_text(
        MODULE.replace('shop count": "shop_tools.count', 'audit": "shop_tools.absent')
    )
    done = run(site, "-m", "corank", "--help")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "'shop_tools.absent_requests'" in done.stderr
