"""Settings of a service in a file: what counts more, what is refused, and what is printed."""

from pathlib import Path

import pytest

from corank.api.serving import format_serve_settings, read_serve_settings
from tests.support.command_line import run_corank


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qeue: 9", "serve.yaml: (top level): unknown key 'qeue'; did you mean 'queue'?"),
        ("port: 99999", "serve.yaml: port: Input should be less than or equal to 65535; received 99999"),
        ("- port", "serve.yaml: expected keys with values, such as `source: lmdb:/srv/shop`"),
        ("port: 8100", "corank serve: source: required, but not given"),
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


def test_a_password_of_a_store_is_not_printed(tmp_path: Path) -> None:
    settings = read_serve_settings(None, {"source": "redis://me:secret@here:6379", "cache": tmp_path})
    assert "secret" not in format_serve_settings(settings)
