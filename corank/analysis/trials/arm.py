"""An arm: a config that is compared with others, by name."""

import hashlib
import json
from dataclasses import dataclass

from corank.core.settings import validate
from corank.training.config import Config
from corank.training.config_file import plain
from corank.training.train_settings import DenseOptimiser

BASE = "as written"


@dataclass(frozen=True)
class Arm:
    """A config with one change, by name."""

    name: str
    config: Config

    def at(self, rate: float, seed: int) -> Config:
        """The arm's config with all learning rates times `rate`, and the `seed`-th seed from the config's own."""
        value = plain(self.config)
        train = value["train"]
        train["table"]["lr"] *= rate
        train["seed"] += seed
        for network in [*value["stages"], *value["teachers"]]:
            optimiser = train.get(network["name"]) or DenseOptimiser().model_dump(mode="json")
            train[network["name"]] = optimiser | {"lr": optimiser["lr"] * rate}
        return validate(Config, value, self.name)

    @property
    def identity(self) -> str:
        """A hash of the config at its own rate and seed."""
        return identity(self.at(1.0, 0))


def identity(config: Config) -> str:
    """A hash of a config without its name: 24 hex digits."""
    value = plain(config)
    del value["name"]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
