"""Plug-ins of a config: loaded before it is validated, by whoever reads it."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corank.bundle.bundle import Bundle
from corank.core.artifact import digest
from corank.core.errors import BundleError, ConfigError
from corank.training.config.config_file import read
from corank.training.run import Run
from tests.support.plugin_files import own_imports


@pytest.fixture(autouse=True)
def _path(tmp_path: Path) -> Iterator[None]:
    """Python's path and modules as they were, afterwards."""
    with own_imports(tmp_path):
        yield


@pytest.fixture
def config(small_world: Path, tmp_path: Path) -> Path:
    """The config of a world, which names the plug-in next to it."""
    path = Path(shutil.copy(small_world / "config.yaml", tmp_path))
    (tmp_path / "plugin_one.py").write_text("", encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8") + "plugins: [plugin_one]\n", encoding="utf-8")
    return path


def test_a_faulty_plugin_is_named_with_the_file(config: Path) -> None:
    message = f"^{config}: plugins: no module 'plugin_absent' on the Python path and in "
    with pytest.raises(ConfigError, match=message):
        read(config, ["plugins=[plugin_absent]"])


def test_a_run_loads_the_plugins_of_its_config(config: Path, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", read(config), config.parent)
    del sys.modules["plugin_one"]
    sys.path.remove(str(config.parent))
    assert Run.open(tmp_path / "run").config.plugins == ["plugin_one"]
    assert "plugin_one" in sys.modules


def test_what_a_bundle_records_is_named_and_never_imported(trained_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert manifest["plugins"] == []
    (tmp_path / "plugin_one.py").write_text("1 / 0", encoding="utf-8")
    sys.path.append(str(tmp_path))
    manifest["plugins"], manifest["features"]["tab"]["kind"] = ["plugin_one", "os", "a b", 1], "bought"
    manifest["digest"] = digest(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=r"needs the plug-in 'plugin_one': pass --plugin plugin_one$"):
        Bundle.open(tmp_path / "bundle")
    assert "plugin_one" not in sys.modules
