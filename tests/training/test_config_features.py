"""Features that a command adds, changes or removes, without an edit of the config's file."""

from pathlib import Path

import pytest

from corank.core.errors import ConfigError
from corank.models.settings.mlp import MlpSettings
from corank.models.settings.two_tower import TowersSettings
from corank.training.config.config_file import read
from tests.support.configs import TEXT

MORE = """\
  brands: {side: user, kind: ids, of: history.brand}
  brand_in_history: {kind: contains, of: [history.brand, brand]}
stages:
  - name: prerank
    model: towers
    keep: 100
    query_features: [user_id, history, tab]
    item_features: [item_id, brand]
  - {name: rank, model: mlp, keep: 10, labels: [click], din: {history: history, attributes: [brand]}}
losses:
  - {kind: click, stage: rank}
  - {kind: click, stage: prerank}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A config whose stages name features, two of which are made of others."""
    file = tmp_path / "shop.yaml"
    file.write_text(TEXT[: TEXT.index("stages:")] + MORE, encoding="utf-8")
    return file


def write_without(path: Path, *lines: str) -> Path:
    """The same config in another file, without the lines of some features."""
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path = path.with_name("fewer.yaml")
    path.write_text("".join(line for line in text if line.strip().partition(":")[0] not in lines))
    return path


def test_without_is_what_the_file_would_be_without_them(path: Path) -> None:
    said: list[str] = []
    fewer = read(path, ["features.tab=null"], ["brand_seen"], said.append)
    written = write_without(path, "tab", "brand_seen")
    written.write_text(written.read_text().replace("history, tab]", "history]"))
    assert fewer == read(written)
    assert said == []


def test_what_is_made_of_a_removed_feature_goes_with_it_and_is_named(path: Path) -> None:
    said: list[str] = []
    config = read(path, [], ["history"], said.append)
    assert list(config.features) == ["user_id", "tab", "item_id", "brand", "brand_seen"]
    towers, rank = config.stages
    assert isinstance(towers, TowersSettings) and isinstance(rank, MlpSettings)
    assert towers.query_features == ["user_id", "tab"]
    assert rank.din is None
    assert said == ["without history: brands, brand_in_history removed, too: made of these, or of no use now"]


def test_an_unknown_feature_cannot_be_removed(path: Path) -> None:
    for overrides, without in (([], ["tabs"]), (["features.tabs=null"], [])):
        with pytest.raises(ConfigError) as caught:
            read(path, overrides, without)
        assert str(caught.value) == (
            "features: 'tabs' cannot be removed: unknown feature 'tabs'; did you mean 'tab'?"
        )
