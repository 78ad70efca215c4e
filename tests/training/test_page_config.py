import json
from pathlib import Path
from typing import Any

import pytest

from corank import config
from corank.core.page import PageSettings
from corank.features.operands import OperandNames
from corank.training.config.config_file import plain, read
from tests.support.configs import TEXT, refused, shop

RULES = [{"at_most": 2, "of": "brand", "within": 10}, {"at_least": 1, "of": "is_new"}]
PAGE: dict[str, Any] = {"name": "page", "model": "page", "keep": 6, "method": "dpp", "by": "prerank.vector"}


def with_page(folder: Path, features: dict[str, Any] | None = None, last: bool = True, **keys: Any) -> Path:
    page = f"  - {json.dumps(PAGE | keys)}\n"
    text = TEXT.replace(
        "losses:\n" if last else "  - {name: rank,", page + ("losses:\n" if last else "  - {name: rank,")
    )
    declared = "".join(f"  {name}: {json.dumps(feature)}\n" for name, feature in (features or {}).items())
    text = text.replace("stages:\n", f"{declared}stages:\n")
    path = folder / "page.yaml"
    path.write_text(text, encoding="utf-8")
    return path


NEW = {"is_new": {"side": "item", "kind": "number", "input": False}}


def test_a_page_is_the_last_of_the_stages_and_no_network(tmp_path: Path) -> None:
    read_config = read(with_page(tmp_path, NEW, rules=RULES))
    assert [stage.name for stage in read_config.stages] == ["prerank", "rank"]
    assert isinstance(read_config.page, PageSettings) and read_config.page.weight == 0.5
    assert [*read_config.total.funnel.stages] == ["prerank", "rank"]
    written = plain(read_config)
    assert [stage["name"] for stage in written["stages"]] == ["prerank", "rank", "page"]
    assert "page" not in written
    assert config.recheck(read_config) == read_config
    assert config.recheck(read_config.model_copy(update={"stages": read_config.stages})) == read_config
    assert read(with_page(tmp_path, NEW, rules=RULES), ["stages.2.strength=.8"]).page != read_config.page


def test_the_features_of_a_page_are_kept_of_items(tmp_path: Path) -> None:
    without, paged = read(shop(tmp_path)), read(with_page(tmp_path, NEW, rules=RULES))
    assert not without.declared.operand_names("item").names
    assert paged.declared.operand_names("item") == OperandNames(("brand",), (), ("is_new",))
    # what is not on a page is packed, and hashed, as ever
    assert "on_page" not in str(plain(without)) and plain(paged)["features"]["brand"]["on_page"]


def test_rules_of_a_removed_feature_go_with_it(tmp_path: Path) -> None:
    kept = read(with_page(tmp_path, NEW, by="brand", rules=RULES), ["features.brand=null"]).page
    assert kept is not None and kept.method == "value" and [rule.of for rule in kept.rules] == ["is_new"]


BRAND, SLOT = {"of": "brand"}, {"slot": 2, "of": "brand"}
UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"last": False}, "stages.1: a page is the last stage; nothing can follow it"),
    ({"keep": 11}, "stages.2.keep: 'page' would fill 11 slots from the 10 that 'rank' leaves it"),
    ({"name": "rank"}, "stages.2.name: 'rank' means something else; take another name"),
    ({"by": "rank.vector"}, "stages.2.by: no item part 'rank.vector'; there are prerank.vector"),
    ({"by": "brnd"}, "stages.2.by: unknown item feature 'brnd'; did you mean 'brand'?"),
    ({"by": "is_new", "features": NEW}, "stages.2.by: 'is_new' is of kind number; name a vector, an id or ids"),
    ({"rules": [{"at_most": 1, "of": "tab"}]}, "stages.2.rules.0.of: 'tab' is no feature of a column of items"),
    ({"rules": [{"slot": 1, "of": "is_ad"}]}, "such as is_ad: {side: item, kind: id, input: false}"),
    ({"rules": [BRAND | {"slot": 7}]}, "stages.2.rules.0.slot: the page has 6 slots; received 7"),
    ({"rules": [BRAND | {"at_least": 7}]}, "stages.2.rules.0.at_least: the page has 6 slots; received 7"),
    ({"rules": [SLOT, BRAND | {"slot": 1}, SLOT | {"never": True}]},
     "stages.2.rules.0 (slot 2 is brand) and rules.2 (slot 2 never brand): no page of 6 slots"),
    ({"features": NEW, "rules": [{"at_most": 1, "of": "is_new"}, {"at_least": 1, "of": "is_new", "within": 2}]},
     "stages.2.rules.0 (at most 1 of is_new) and rules.1 (at least 1 of is_new within 2): no page of 6 slots"),
    ({"method": "mmr", "lambda_": 0.5}, "stages.2: unknown key 'lambda_'; did you mean 'lambda'?"),
    ({"rules": [BRAND]}, "stages.2.rules.0: a rule has one of at_most, at_least and slot"),
    ({"strength": 3}, "stages.2.strength: Input should be less than 1; received 3"),
    ({"method": "value"}, "stages.2: by has no effect with method: value"),
    ({"cuts": ["ranked"]}, "stages.2: unknown key 'cuts'"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "message"), UNFIT)
def test_pages_that_do_not_fit_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    assert message in refused(with_page(tmp_path, **keys))


@pytest.mark.parametrize("wrong", ["features=[brand]", "stages.2=page", "stages.2.rules={of: brand}"])
def test_other_mistakes_with_a_page_are_errors_of_the_config(tmp_path: Path, wrong: str) -> None:
    assert refused(with_page(tmp_path, by="brand", rules=[{"at_most": 1, "of": "brand"}]), wrong)


def test_a_page_alone_or_elsewhere_is_refused(tmp_path: Path) -> None:
    path = shop(tmp_path)
    assert "stages.0: a page orders what a stage before it scores" in refused(
        path, f"stages=[{json.dumps(PAGE)}]"
    )
    assert "page: a page is the last of `stages`" in refused(path, f"page={json.dumps(PAGE)}")
    assert "train: unknown key 'page'" in refused(with_page(tmp_path), "train.page={lr: .1}")
