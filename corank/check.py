"""What a config would train on, told before anything is packed."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corank.config import Config
from corank.schema import Placement
from corank.survey import Survey, feature_columns, sources
from corank.tables import Table


@dataclass(frozen=True)
class Checked:
    config: Config
    features: list[dict[str, str]]
    """Feature, side, kind, embedding table, the source it is read from, and a mark for each place it enters."""
    rows: dict[str, int]
    """Rows of each table."""
    splits: dict[str, int]
    """Candidates of the log in each split."""


def checked(config: Config, base: Path) -> Checked:
    """Raises ConfigError, DataError for what would stop `corank pack` at its survey of the tables."""
    data, schema = config.data, config.declared
    named = {"log": data.log, "items": data.items, "users": data.users, "truth": data.truth}
    tables = {name: Table.scan(name, source, base) for name, source in named.items() if source is not None}
    found = sources(schema, data, tables["log"], tables.get("items"), tables.get("users"))
    survey = Survey.of(tables["log"], data, feature_columns(schema, found, "log"))
    return Checked(
        config,
        [_feature_row(config, name, found.get(name, "log")) for name in config.features],
        {n: int(t.collect(t.frame.select(pl.len())).item()) for n, t in tables.items()},
        survey.splits,
    )


def _feature_row(config: Config, name: str, source: str) -> dict[str, str]:
    feature, schema = config.features[name], config.declared
    table = schema.table_of(name) if name in schema.embedded() else "-"
    row = {"feature": name, "side": feature.side, "kind": feature.kind, "from": source, "table": table}
    for stage in config.stages:
        if stage.model == "mlp":
            row[stage.name] = "x"
            continue
        chosen: dict[Placement, list[str] | None] = {
            "query": stage.query_features,
            "item": stage.item_features,
        }
        for placement, names in chosen.items():
            enters = feature.placement == placement and (names is None or name in names)
            row[f"{stage.name}.{placement}"] = "x" if enters else ""
    return row
