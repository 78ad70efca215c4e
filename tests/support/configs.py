"""A config as text and the message by which a changed one is refused; configs and data settings of small logs."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from corank.core.errors import ConfigError
from corank.features.log_schema import DataSettings
from corank.training.config.config_file import read

TEXT = """\
name: shop
data:
  log: log/*.parquet
  items: items.parquet
  request: [request_id]
  user: user_id
  item: item_id
  time: time
  level: level
  levels: [retrieved, preranked, ranked, exposed]
  labels: {click: {column: is_click}, order: {column: is_order}}
  split: {valid: 2026-04-29, test: 2026-04-30}
features:
  user_id: {side: user, kind: id}
  history: {side: user, kind: ids, of: item_id, event: click, every: 1d}
  tab: {side: context, kind: id}
  item_id: {side: item, kind: id}
  brand: {side: item, kind: id}
  brand_seen: {side: cross, kind: number}
stages:
  - {name: prerank, model: towers, cuts: [retrieved], keep: 100, query: [16, 8], item: [32, 8]}
  - {name: rank, model: mlp, cuts: [preranked], keep: 10, hidden: [16], labels: [click, order], value: click}
losses:
  - {kind: click, stage: rank}
  - {kind: unexposed, stage: prerank, from: [retrieved], per_request: 10, weight: 0.5}
  - {kind: distill, teacher: rank, student: prerank, on: [exposed, ranked], warm_up: 500}
train: {epochs: 2, table: {lr: 0.1}, rank: {lr: 0.01}}
"""


def refused(path: Path, *overrides: str) -> str:
    """The message without the file that begins it."""
    with pytest.raises(ConfigError) as caught:
        read(path, overrides)
    return str(caught.value).removeprefix(f"{path}: ")


def shop(folder: Path) -> Path:
    """The config, written to a folder."""
    path = folder / "shop.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


DATA: dict[str, Any] = {
    "log": "log.parquet",
    "request": ["request"],
    "user": "user",
    "item": "item",
    "time": "time",
    "labels": {"click": {"column": "click"}},
    "split": {"valid": "1970-01-03", "test": "1970-01-04"},
}
"""Of a log of some days after 1970, of which two train."""


def data_settings(**changes: Any) -> DataSettings:
    """The settings of such a log."""
    return DataSettings.model_validate(DATA | changes)


MARCH: dict[str, Any] = {
    "request": ["request_id"],
    "user": "user_id",
    "item": "item_id",
    "labels": {"click": {"column": "is_click"}},
    "split": {"valid": "2026-03-02", "test": "2026-03-03"},
}
"""What a log of three days of March 2026 has otherwise."""
ID = {"kind": "id"}
NUMBER = {"kind": "number"}


def small_config(
    features: Mapping[str, Any], data: Mapping[str, Any] = MappingProxyType({}), **parts: Any
) -> dict[str, Any]:
    """A config of two small stages that learn from clicks, with other parts where they are given."""
    towers = {"name": "prerank", "model": "towers", "keep": 2, "query": [4], "item": [4]}
    plain = {
        "name": "small",
        "data": DATA | dict(data),
        "features": dict(features),
        "stages": [towers, {"name": "rank", "model": "mlp", "keep": 1, "hidden": [4]}],
        "train": {"epochs": 1, "requests": 8},
    } | parts
    return {"losses": [{"kind": "click", "stage": stage["name"]} for stage in plain["stages"]]} | plain


def of_side(side: str, kind: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Features of a side, all of a kind."""
    return {name: {"side": side, **kind} for name in names}
