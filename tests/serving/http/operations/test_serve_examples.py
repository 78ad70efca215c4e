"""The examples of a service's settings and units are accepted by what reads them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from corank.api.serving import read_serve_settings
from corank.serving.http.serve_settings import ServeSettings

ROOT = Path(__file__).parents[4]
EXAMPLE = ROOT / "examples" / "serve"


def test_the_settings_of_example_and_page_are_valid(tmp_path: Path) -> None:
    settings = read_serve_settings(EXAMPLE / "serve.yaml", {})
    assert (settings.rate_limit, settings.drain_seconds) == (500, 1)
    page = (ROOT / "docs" / "operations" / "running.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "serve.yaml").write_text(block, encoding="utf-8")
    assert read_serve_settings(tmp_path / "serve.yaml", {}).port == 8000


def test_the_units_ask_for_what_the_service_does_and_wait_longer_than_it_takes() -> None:
    unit = (EXAMPLE / "corank.service").read_text(encoding="utf-8")
    settings = read_serve_settings(EXAMPLE / "serve.yaml", {})
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop) > settings.drain_seconds + settings.stop_seconds + 5
    (files,) = re.findall(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)
    assert int(files) >= ServeSettings.model_fields["connections"].default + 256
    assert "Type=notify-reload" in unit and "Requires=corank.socket" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("corank.service", "corank.socket"):
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/usr/local/bin/corank", shutil.which("true") or ""))
    units = [str(tmp_path / name) for name in ("corank.service", "corank.socket")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
