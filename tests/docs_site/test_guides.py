"""The examples of the guides are accepted."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import corank
from corank.core.errors import CorankError
from corank.core.settings import validate
from corank.datasets.feed.simulate import simulate_world
from corank.training.config.config import Config
from corank.training.config.yaml_values import read_values

ROOT = Path(__file__).parents[2]


# What the features of their guide are made of: what neither examples/shop.yaml nor the guide itself declares.
OPERANDS = """
city: {side: user, kind: id}
hour: {side: context, kind: id}
usual_price: {side: user, kind: number}
login_time: {side: user, kind: time}
bid: {side: cross, kind: number}
text: {side: item, kind: vector, dim: 8}
"""


def yaml_of(page: str) -> list[str]:
    """The blocks of YAML of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def blocks(page: str, folder: Path) -> list[dict[str, Any]]:
    """The complete blocks of YAML of a page, read as a config is."""
    documents = []
    for block in yaml_of(page):
        if "…" not in block:
            (folder / "block.yaml").write_text(block, encoding="utf-8")
            documents.append(read_values(folder / "block.yaml", []).value)
    return documents


def test_the_examples_of_the_guide_to_the_config_are_accepted(tmp_path: Path) -> None:
    whole, *parts = blocks("guides/config.md", tmp_path)
    config = validate(Config, whole, "the guide")
    assert [stage.name for stage in config.stages] == ["prerank", "rank"]
    assert config.retrieval is not None and config.train.early_stop is not None
    assert config.export.lowered == {"prerank.vector": "fp16", "rank.item": "int8"}
    teaching = [part for part in parts if not part.keys() & {"stages"}]
    assert len(teaching) == 2
    for part in teaching:
        validate(Config, whole | part | {"losses": [*whole["losses"], *part["losses"]]}, "the guide")


def test_the_errors_of_the_guide_to_the_config_are_what_is_said(tmp_path: Path) -> None:
    simulate_world(tmp_path, requests=60, candidates=12, users=20, items=40)
    shop = tmp_path / "shop.yaml"
    text = (ROOT / "examples" / "shop.yaml").read_text(encoding="utf-8")
    shop.write_text(text.replace("is_order", "is_click").replace(', separator: ","', ""), encoding="utf-8")
    mistakes = [
        "data.lebel=level",
        "stages.0.item_features=[item_id, tab]",
        "losses.4={kind: distill, teacher: rank, student: prerank, on: [retrieved]}",
        "losses=[{kind: click, stage: rank}]",
        "features.price.column=pric",
    ]
    said = []
    for mistake in mistakes:
        with pytest.raises(CorankError) as raised:
            corank.check(shop, [mistake])
        said.append(str(raised.value).removeprefix(f"{tmp_path}/"))
    page = (ROOT / "docs" / "guides" / "config.md").read_text(encoding="utf-8")
    shown = re.search(r"^```text\n(shop\.yaml: .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert shown and shown[1].splitlines() == said


def test_the_examples_of_the_guide_to_losses_are_parts_of_a_config(tmp_path: Path) -> None:
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    orders = [loss for loss in shop["losses"] if loss.get("label") == "order"]
    first, *others = [block["losses"] for block in blocks("guides/losses.md", tmp_path)]
    for losses in (first, *([*first[:1], *more] for more in others)):
        validate(Config, shop | {"losses": [*losses, *orders]}, "the guide")


def test_the_example_of_the_guide_to_pages_is_a_config(tmp_path: Path) -> None:
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    (part,) = blocks("guides/page.md", tmp_path)
    config = validate(Config, shop | part | {"features": shop["features"] | part["features"]}, "the guide")
    assert config.page is not None and len(config.page.rules) == 4


@pytest.mark.parametrize("page", ["data", "drift"])
def test_the_examples_of_a_guide_are_parts_of_a_config(page: str, tmp_path: Path) -> None:
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    shop["features"]["upload_day"] = {"side": "item", "kind": "bucket"}
    parts = blocks(f"guides/{page}.md", tmp_path)
    assert parts
    for part in parts:
        data = shop["data"] | part.get("data", {})
        validate(Config, shop | part | {"data": data}, "the guide")


def test_the_examples_of_the_guide_to_features_are_parts_of_a_config() -> None:
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    del shop["stages"][0]["feature_dropout"]
    known = shop["features"] | yaml.safe_load(OPERANDS)
    shop["data"]["columns"] = ["bid", "price"]
    for text in yaml_of("guides/features.md"):
        if text.startswith("value: "):  # one of several
            for value in re.findall(r"^value: (.*)", text, re.MULTILINE):
                validate(Config, with_stages(shop, {}, {"value": value}), value)
            continue
        part, whole = yaml.safe_load(text), shop
        if isinstance(part, list):
            whole, part = with_stages(shop, part[0], {}), {"features": {}}
        elif "labels" in part:
            part = {"data": part, "features": {}}
        elif "din" in part:
            whole = with_stages(shop, {}, {"din": part.pop("din")})
        features = part.get("features", part)
        used = needed(whole, features, known)
        events = {name: {"table": name} for name in re.findall(r"'events': '(\w+)'", str(used | features))}
        data = {"events": events} | part.get("data", {})
        validate(Config, whole | {"data": whole["data"] | data, "features": used | features}, text)
        known = features | known


def with_stages(config: dict[str, Any], first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """A config whose stages have other keys, too."""
    prerank, rank = config["stages"]
    return config | {"stages": [prerank | first, rank | last]}


def needed(config: dict[str, Any], features: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Of known features the others that features and stages name, directly or not, and the ids of user and item."""
    found: dict[str, Any] = {}
    names = {"user_id", "item_id"} - features.keys()
    while names:
        found |= {name: known[name] for name in names}
        words = re.findall(r"\w+", f"{features} {found} {config['stages']}")
        names = (known.keys() & set(words)) - found.keys() - features.keys()
    return found


def test_the_examples_of_the_guide_to_scaling_are_parts_of_a_config(tmp_path: Path) -> None:
    shop = read_values(ROOT / "examples" / "shop.yaml", []).value
    known = shop.keys() | {"packed"}
    parts = [block for block in blocks("operations/scaling.md", tmp_path) if block.keys() <= known]
    assert parts
    for block in parts:
        whole = {key: shop[key] | value if isinstance(value, dict) else value for key, value in block.items()}
        config = validate(Config, shop | whole, "the guide")
        assert config.packed == "s3://shop/packed"
