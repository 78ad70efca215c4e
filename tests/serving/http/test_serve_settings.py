"""Settings of a service: which count, which are refused, what is printed, and those of the examples."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank_serve.api.serving import format_serve_settings, read_serve_settings
from corank_serve.http.serve_settings import ServeSettings
from tests.support.command_line import run_corank

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "serve"


def test_settings_of_a_file_count_less_than_those_of_the_command_line(
    trained_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(f"source: {trained_bundle}\nport: 8100\nqueue: 9\ncache: {tmp_path / 'cache'}\n")
    code, out, err = run_corank(capsys, "serve", "--config", config, "--port", 8200, "--print-config")
    assert code == 0, err
    assert f"source: {trained_bundle}\n" in out and "port: 8200\n" in out and "queue: 9\n" in out
    (tmp_path / "printed.yaml").write_text(out)
    assert run_corank(capsys, "serve", "--config", tmp_path / "printed.yaml", "--print-config")[1] == out
    settings = read_serve_settings(None, {"source": "redis://me:secret@here:6379", "cache": tmp_path})
    assert "secret" not in format_serve_settings(settings)


def test_a_lone_dash_is_a_value(trained_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--access-log", "-"], ["--access-log=-"]):
        code, out, err = run_corank(capsys, "serve", trained_bundle, *option, "--print-config")
        assert code == 0, err
        assert "access_log: '-'\n" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qeue: 9", "serve.yaml: (top level): unknown key 'qeue'; did you mean 'queue'?"),
        ("port: 99999", "serve.yaml: port: Input should be less than or equal to 65535; received 99999"),
        ("- port", "serve.yaml: expected keys with values, such as `source: lmdb:/srv/shop`"),
        ("port: 8100", "corank serve: source: required, but not given"),
        (
            "rate_limit: 5",
            "serve.yaml: rate_limit: a proxy limits rates now, such as by examples/operations/nginx",
        ),
        ("canary: x:5%", "serve.yaml: canary: start a second service with --version"),
        ("shadow: x", "serve.yaml: shadow: start a second service with --version"),
        ("version: x", "serve.yaml: version: expected a version as `corank store ls` names it; received 'x'"),
        ("source: x\ntls_cert: x", "serve.yaml: (top level): TLS needs both --tls-cert and --tls-key"),
    ],
)
def test_a_faulty_file_is_named_with_its_key(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(text)
    code, out, err = run_corank(capsys, "serve", "--config", config)
    assert (code, out) == (1, "") and message in err


def test_an_option_that_is_gone_names_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    for option, way in (("--canary", "nginx/split.conf"), ("--shadow", "nginx/mirror.conf")):
        code, out, err = run_corank(capsys, "serve", "lmdb:x", option, "V")
        assert (code, out) == (2, "") and option in err and "--version" in err and way in err
    with pytest.raises(ConfigError, match=r"canary: .*--version"):
        validate(ServeSettings, {"source": "lmdb:x", "canary": "V"}, "serve.yaml")


def test_a_bundle_has_no_versions(trained_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = "0123456789abcdef-1-1a2b3c4d"
    code, _, err = run_corank(capsys, "serve", trained_bundle, "--version", version, "--print-config")
    assert code == 1 and "--version" in err and "`corank publish`" in err


def test_the_settings_and_units_of_examples_and_page_are_valid(tmp_path: Path) -> None:
    settings = read_serve_settings(EXAMPLE / "serve.yaml", {})
    page = (ROOT / "docs" / "operations" / "run.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "serve.yaml").write_text(block, encoding="utf-8")
    assert read_serve_settings(tmp_path / "serve.yaml", {}).port == 8000
    unit = (EXAMPLE / "corank.service").read_text(encoding="utf-8")
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop) > settings.drain_seconds + settings.stop_seconds + 5
    (files,) = re.findall(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)
    assert int(files) >= ServeSettings.model_fields["connections"].default + 256
    assert "Type=notify-reload" in unit and "Requires=corank.socket" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    units = [tmp_path / name for name in ("corank.service", "corank.socket")]
    for unit in units:
        text = (EXAMPLE / unit.name).read_text(encoding="utf-8")
        unit.write_text(text.replace("/usr/local/bin/corank", shutil.which("true") or ""))
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
