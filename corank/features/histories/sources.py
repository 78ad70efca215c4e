"""Which features belong to histories, and which tables of events to features."""

from typing import TYPE_CHECKING

from corank.core.errors import ConfigError
from corank.features.feature_kind import ColumnFeature
from corank.features.log_schema import DataSettings

if TYPE_CHECKING:
    from corank.features.schema import Placement, Schema


def plain_columns(schema: "Schema", placement: "Placement") -> dict[str, ColumnFeature]:
    """Select the features of a placement that are encoded value by value: those of a column, histories left out."""
    past = schema.histories().keys() | schema.parallels().keys()
    return {n: f for n, f in schema.columns(placement).items() if n not in past}


def events_table(schema: "Schema", name: str) -> str | None:
    """Return the table of `data.events` that a feature's column is of, if it is a history's, or parallel to one."""
    history = schema.histories().get(schema.parallels().get(name, name))
    return history.table if history else None


def refuse_idle_tables(schema: "Schema", data: DataSettings) -> None:
    """Raise ConfigError for a table of events that no feature reads."""
    read = {history.table for history in schema.histories().values()} | {
        p.events for p in schema.priors().values()
    }
    for name in data.events:
        if name not in read:
            raise ConfigError(
                f"data.events.{name}: no feature reads it; drop it, or add a history or a prior of it"
            )
