"""`corank import`: its commands are those of the registry, a plug-in's importer among them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from corank.core.registry import PLUGINS
from corank.datasets.importer import IMPORTERS
from tests.support.command_line import run_corank
from tests.support.plugin_files import IMPORTER, plugin_file


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a plug-in in the working directory."""
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.chdir(tmp_path)
    with plugin_file(tmp_path / "plugin_importer.py", IMPORTER, IMPORTERS) as name:
        yield name


def test_an_importer_of_a_plugin_is_a_command(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_corank(capsys, "--plugin", plugin, "import", "--help")
    assert code == 0 and all(
        f" {name} " in out for name in ("kuairand", "mylog", "lists", "Import the shop's own log.")
    )
    code, out, _ = run_corank(capsys, "--plugin", plugin, "import", "mylog", "--help")
    assert code == 0
    for text in ("--from", "The day to begin with.", "--all-rows", "--limit", "One file of the shop."):
        assert text in out
    source = tmp_path / "log.csv"
    source.touch()
    code, _, err = run_corank(capsys, "--plugin", plugin, "import", "mylog", source, tmp_path / "out",
                              "--from", 3, "--until", "2024-01-20", "--all-rows", "--limit", 0.5)  # fmt: skip
    assert code == 0 and "from 3, until 2024-01-20, all True, limit 0.5" in err
    assert f"next: corank train {tmp_path}/out/config.yaml" in err
    code, _, err = run_corank(capsys, "--plugin", plugin, "import", "mylog", source, tmp_path / "again")
    assert code == 0 and "from 7, until None, all False, limit None" in err
