"""The example of a daily funnel and the guide's settings are accepted, and the guide names every setting."""

import configparser
import re
from datetime import timedelta
from pathlib import Path

import pytest

from corank.continual.settings import DailySettings, read_settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "daily"
PAGES = [ROOT / "docs" / "operations" / f"daily{language}.md" for language in ("", ".zh-CN")]


def test_the_settings_of_the_example_are_valid() -> None:
    settings = read_settings(EXAMPLE / "daily.yaml")
    assert settings.period == timedelta(days=1) and settings.store == "lmdb:store"
    assert [condition.of_live for condition in settings.gate] == [True, False]


def test_the_timer_starts_the_service_and_both_jobs_call_the_command_on_the_settings() -> None:
    service, timer = (configparser.ConfigParser(interpolation=None) for _ in range(2))
    service.read(EXAMPLE / "corank-daily.service")
    timer.read(EXAMPLE / "corank-daily.timer")
    assert service["Service"]["Type"] == "oneshot" and timer["Install"]["WantedBy"] == "timers.target"
    (line,) = re.findall(r"^[\d*].*", (EXAMPLE / "crontab").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(line.split("cd")[0].split()) == 6  # five of time, and the user
    for command in (service["Service"]["ExecStart"], line):
        assert "/corank daily daily.yaml" in command


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
def test_the_guide_has_every_setting_and_its_default_and_an_example_that_is_valid(
    page: Path, tmp_path: Path
) -> None:
    text = page.read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.MULTILINE))
    rows = {name: default.strip() for name, default in found.items() if name in DailySettings.model_fields}
    assert list(rows) == list(DailySettings.model_fields)
    for name, field in DailySettings.model_fields.items():
        if isinstance(field.default, (int, str)):
            assert rows[name] == f"`{field.default}`"
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "daily.yaml").write_text(block, encoding="utf-8")
    assert read_settings(tmp_path / "daily.yaml").holdout == timedelta(hours=2)
