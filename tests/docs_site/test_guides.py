"""The examples of the guides are accepted."""

import re
from pathlib import Path
from typing import Any

from corank.core.settings import validate
from corank.training.config import Config
from corank.training.plain_config.config_values import read_values

ROOT = Path(__file__).parents[2]


def examples(folder: Path) -> dict[str, Any]:
    """The complete blocks of YAML in the guide to the config, by key, read as a config is."""
    text = (ROOT / "docs" / "guides" / "config.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if "…" not in block:
            (folder / "block.yaml").write_text(block, encoding="utf-8")
            found |= read_values(folder / "block.yaml", []).value
    return found


def test_the_examples_of_the_guide_to_the_config_make_a_config(tmp_path: Path) -> None:
    given = examples(tmp_path)
    assert given.keys() == {"data", "stages", "retrieval", "export", "train"}
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    config = validate(Config, {**shop, **given}, "the guide")
    assert [stage.name for stage in config.stages] == ["prerank", "rank"]
    assert config.retrieval is not None and config.train.early_stop is not None
    assert config.export.lowered == {"prerank.vector": "fp16", "rank.item": "int8"}
