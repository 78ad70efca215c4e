"""`corank simulate`: its worlds are those of the registry, a plug-in's among them, and its options their fields."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import corank
from corank.core.registry import PLUGINS
from corank.datasets.simulated import WORLDS
from tests.support.command_line import run_corank
from tests.support.plugin_files import plugin_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The world of examples/plugins in the working directory; what it registers is forgotten afterwards."""
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "examples" / "plugins" / "coins.py").read_text(encoding="utf-8")
    with plugin_file(tmp_path / "coins.py", text, WORLDS) as name:
        yield name


def test_a_world_of_a_plugin_is_simulated(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        options = ["--preset", "coins", "--requests", 300, "--items", 5, "--seed", 3]
        code, _, err = run_corank(capsys, "--plugin", plugin, "simulate", name, *options)
        assert code == 0 and f"next: corank train {name}/config.yaml" in err
        assert "1,500 candidates, 1,500 exposed" in err
    files = sorted(path.name for path in Path("a").glob("[!.]*"))
    assert files == ["config.yaml", "items.parquet", "log.parquet", "truth.parquet"]
    assert all(Path("a", name).read_bytes() == Path("b", name).read_bytes() for name in files)
    corank.check(Path("a/config.yaml")).require()


def test_options_that_a_world_lacks_are_named(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = "which has --seed, --requests, --items; leave it out"
    for options in (
        ["--users", 5],
        ["--drift"],
    ):
        code, _, err = run_corank(capsys, "--plugin", plugin, "simulate", "a", "--preset", "coins", *options)
        assert code == 1
        assert err == f"error: {options[0]}: no option of the preset coins in the format plain, {known}\n"
    code, _, err = run_corank(capsys, "simulate", "a", "--preset", "coin")
    assert code == 1 and err.startswith("error: --preset: unknown preset 'coin'; ")
    code, _, err = run_corank(
        capsys, "--plugin", plugin, "simulate", "a", "--preset", "coins", "--format", "csv"
    )
    assert code == 1 and err == "error: --format: the preset coins is written as plain; received csv\n"
    assert not Path("a").exists()
