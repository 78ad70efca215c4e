"""What a stage or teacher is checked against: the rest of the config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corank.core.errors import ConfigError
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema


@dataclass(frozen=True)
class StageContext:
    """The rest of the config, as far as a stage or teacher depends on it."""

    key: str
    """Where the stage is in the config, such as `stages.1`; errors begin with it."""
    schema: Schema
    data: DataSettings
    before: Mapping[str, int] = field(default_factory=dict)
    """The stages before it in the cascade, each with its quota; empty for the first stage and for teachers."""
    last_first: bool = False
    """Whether later stages train before earlier ones (`train.mode: separate`)."""

    def require_labels(self, labels: Sequence[str]) -> None:
        """Raise ConfigError unless `data.labels` has every label."""
        for label in labels:
            if label not in self.data.labels:
                raise ConfigError(
                    f"{self.key}.labels: no label '{label}'; data.labels are {', '.join(self.data.labels)}"
                )
