"""What is known of a config's log beyond the counts of its splits, and how the config could name what it adds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.core.yaml_names import quote
from corank.data.tables import Table
from corank.training.checks.log_counts import FeatureFacts, LogCounts
from corank.training.checks.returns import Returns
from corank.training.config.config import Config
from corank.training.config.config_file import plain
from corank.training.config.yaml_values import change_values


@dataclass(frozen=True)
class LogFacts:
    """A config with what was measured of its log."""

    config: Config
    """As it is written."""
    tables: Mapping[str, Table]
    counts: LogCounts
    features: Sequence[FeatureFacts]
    """The ids of items and users, then the features that are read from a column."""
    returns: Returns

    # What the log holds

    @property
    def label(self) -> str:
        """The label that the last stage orders by."""
        return self.config.stages[-1].main

    @property
    def sizes(self) -> Mapping[int, int]:
        """Number of candidates → requests of `train` that have so many."""
        return self.counts.requests["train"].candidates

    @property
    def exposed(self) -> int:
        """Exposed candidates of `train`."""
        return self.counts.splits["train"].labels[self.label].exposed

    @property
    def cut(self) -> Mapping[str, int]:
        """Level → candidates of `train` that were cut there; none of a log without levels."""
        data = self.config.data
        if data.level is None:
            return {}
        levels = self.counts.splits["train"].levels
        return {name: count for name, count in zip(data.levels[:-1], levels, strict=False) if count}

    @property
    def others(self) -> Iterator[FeatureFacts]:
        """Of the features that are no ids of items or users."""
        schema, own = self.config.declared, {self.config.data.item, self.config.data.user}
        for facts in self.features:
            if facts.name in schema.features and schema.column(facts.name) not in own:
                yield facts

    def column(self, name: str) -> FeatureFacts:
        """The facts of a feature, or of `item` or `user`."""
        return next(facts for facts in self.features if facts.name == name)

    def known(self, name: str) -> float:
        """The share of candidates of the last split whose item, or user, training knows; 1 without another split."""
        familiar = list(self.column(name).familiar.values())
        return familiar[-1].candidates if familiar else 1.0

    # What the config could have

    def accepts(self, values: Mapping[str, str]) -> bool:
        """Whether the config is valid with some values, and some network reads each feature that is an input.

        Args:
            values: key of the config → value in YAML.
        """
        try:
            changed = change_values(plain(self.config), [f"{key}={value}" for key, value in values.items()])
            config = validate(Config, changed.value, self.config.name)
        except ConfigError:
            return False
        schema = config.declared
        inputs = (network.input_features(schema).values() for network in config.networks.values())
        read = {name for layers in inputs for layer in layers for name in layer}
        added = {key.partition(".")[2] for key in values if key.startswith("features.")}
        return all(name in read for name in added & schema.inputs().keys())

    def key_of(self, what: str) -> tuple[str, dict[str, str]]:
        """A feature over the ids of items or users, and what declares it if the config has none."""
        schema, data = self.config.declared, self.config.data
        column = data.item if what == "item" else data.user
        for name, feature in schema.columns().items():
            if schema.column(name) == column and schema.side(name) == what and "key" in feature.uses:
                return name, {}
        key = self.free(column)
        name = key.partition(".")[2]
        named = "" if name == column else f", column: {quote(column)}"
        return name, {key: f"{{side: {what}, kind: id, input: false{named}}}"}

    def free(self, name: str) -> str:
        """The key of a feature that is not there yet, by this name or one like it."""
        name = name.replace(".", "_")
        while name in self.config.features:
            name += "_"
        return f"features.{name}"
