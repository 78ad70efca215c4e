"""The part of a config that needs no torch: a mistake in it is told before torch is loaded, which takes seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from corank.core.errors import ConfigError
from corank.core.settings import Settings, build_once, describe_unknown, validate
from corank.features.feature_kind import Feature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.training.plain_config.config_values import load_named_plugins, read_values

LATER = ("stages", "teachers", "losses", "retrieval", "train")
"""Keys of a config that `Config` adds."""
_declared = build_once(Schema)


class ConfigHead(Settings):
    """Name, data and features of a config."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Names `packed/NAME` and `runs/NAME` beside the config."""
    plugins: list[str] = []
    """Python modules that register parts of the user's own, from the Python path or the config's folder."""
    packed: str | None = Field(None, min_length=1)
    """The folder of the packed data, or its URL in object storage; `packed/NAME` beside the config unless given."""
    data: DataSettings
    """The tables and columns of the log."""
    features: dict[str, Feature] = Field(min_length=1)
    """What networks read, by name."""

    @property
    def declared(self) -> Schema:
        """The features, with the side and the table of each."""
        return _declared(self.features)

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        self.declared.check_data(self.data)
        return self


def check_head(path: Path, overrides: Sequence[str] = ()) -> None:
    """Check what needs no torch of a config: YAML, overrides, name, data, features.

    A command calls it before it imports what trains. Raises ConfigError, PluginError, as reading the config does.
    """
    value = read_values(path, overrides).value
    load_named_plugins(value, str(path), path.parent)
    known = [*ConfigHead.model_fields, *LATER]
    for key in value:
        if key not in known:
            raise ConfigError(f"{path}: (top level): {describe_unknown(key, known)}")
    validate(ConfigHead, {k: v for k, v in value.items() if k not in LATER}, str(path))
