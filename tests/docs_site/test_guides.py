"""The examples of the guides are accepted."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from corank.batches.batch import Batch
from corank.core.settings import validate
from corank.training.config.config import Config
from corank.training.config.yaml_values import read_values

ROOT = Path(__file__).parents[2]


def blocks(page: str, folder: Path) -> list[dict[str, Any]]:
    """The complete blocks of YAML of a page, read as a config is."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    documents = []
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if "…" not in block:
            (folder / "block.yaml").write_text(block, encoding="utf-8")
            documents.append(read_values(folder / "block.yaml", []).value)
    return documents


def examples(folder: Path) -> dict[str, Any]:
    """The blocks of the guide to the config, by key: the first of each."""
    return {k: v for block in reversed(blocks("guides/config.md", folder)) for k, v in block.items()}


def test_the_examples_of_the_guide_to_the_config_make_a_config(tmp_path: Path) -> None:
    parts = examples(tmp_path)
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    whole = {key: parts[key] for key in ("data", "stages", "retrieval", "export", "train")}
    config = validate(Config, {**shop, **whole}, "the guide")
    assert [stage.name for stage in config.stages] == ["prerank", "rank"]
    assert config.retrieval is not None and config.train.early_stop is not None
    assert config.export.lowered == {"prerank.vector": "fp16", "rank.item": "int8"}


def test_the_examples_of_the_guide_to_scaling_are_parts_of_a_config(tmp_path: Path) -> None:
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    known = shop.keys() | {"packed"}
    parts = [block for block in blocks("operations/scaling.md", tmp_path) if block.keys() <= known]
    assert parts
    for block in parts:
        whole = {key: shop[key] | value if isinstance(value, dict) else value for key, value in block.items()}
        config = validate(Config, shop | whole, "the guide")
        assert config.packed == "s3://shop/packed"


# The page on batches


PAGE = Path(__file__).parents[2] / "docs" / "extending" / "batch.md"
FIELD = re.compile(r"^\| `(\w+)(?:\[(.*?)\])?` \| (.*?) \| (.*?) \|", re.MULTILINE)


def documented() -> list[tuple[str, str, str, str]]:
    """Field, key, shape and type of each row."""
    text = PAGE.read_text(encoding="utf-8")
    return FIELD.findall(text[text.index("## Fields") : text.index("## Methods")])


def test_the_page_has_all_fields_in_their_order() -> None:
    assert list(dict.fromkeys(name for name, *_ in documented())) == [field.name for field in fields(Batch)]
