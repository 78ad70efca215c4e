"""Which features of a config are those of an earlier packing; features that start fresh are reported."""

from pathlib import Path

import corank
from corank.data.packing.earlier_pack import EarlierPack
from corank.features.kinds.id import IdFeature
from corank.features.schema import Schema
from tests.support.daily_log import config_of, write_day


def test_features_are_carried_by_name_settings_and_what_they_are_made_of(tmp_path: Path) -> None:
    write_day(tmp_path, 0)
    earlier = EarlierPack.of(corank.pack(config_of(0, tmp_path)).packed)
    features = dict(earlier.manifest.features)
    assert earlier.find_carried(Schema(features)) == set(features)
    grown = features | {"item": IdFeature(side="item", min_count=4, keep_days=9)}
    assert earlier.find_carried(Schema(grown)) == set(features)
    # pairs, priors and histories are of values, not of codes
    hashed = features | {"item": IdFeature(side="item", hash=9)}
    assert earlier.find_carried(Schema(hashed)) == {"user", "pair", "ctr"}
    renamed = {("who" if name == "user" else name): feature for name, feature in features.items()}
    renamed = {"who": IdFeature(side="user", column="user"), **{n: renamed[n] for n in ("item", "ctr")}}
    assert earlier.find_carried(Schema(renamed)) == {"item", "ctr"}


def test_what_begins_anew_is_told(tmp_path: Path) -> None:
    write_day(tmp_path, 0)
    first = corank.pack(config_of(0, tmp_path)).packed
    write_day(tmp_path, 1)
    said: list[str] = []
    clicked = {"side": "user", "kind": "ids", "of": "item", "event": "click"}
    changed = config_of(1, tmp_path, user={"side": "user", "kind": "id", "hash": 50}, clicked=clicked)
    second = corank.pack(changed, continue_from=first.folder, report=said.append).packed
    assert f"begin anew, as {first.folder} has no such features: user" in said
    assert f"events 'item.click' begin now: {first.folder} has none of them" in said
    assert set(second.manifest.grown) == {"item", "pair"}
    assert second.encoders.sizes["user"] == 52


def test_scales_are_taken_over(tmp_path: Path) -> None:
    counted = {"candidates": {"kind": "candidates", "scale": "standard"}}
    clicks = {"clicks": {"side": "context", "kind": "number", "column": "click"}}
    write_day(tmp_path, 0)
    first = corank.pack(config_of(0, tmp_path, **counted, **clicks)).packed
    write_day(tmp_path, 1)
    second = corank.pack(config_of(1, tmp_path, **counted, **clicks), continue_from=first.folder).packed
    for name in ("candidates", "clicks"):
        before, now = (one.encoders.fitted[name].dump(tmp_path, 0) for one in (first, second))
        assert before == now
