"""Packed data of which features are taken over, and how a config's features are found in several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corank.data.pack_manifest import PackManifest
from corank.data.reuse.feature_keys import find_feature_keys
from corank.features.operands import OperandNames
from corank.features.schema import Placement, Schema

OPERAND_FILES = {"keys": "key", "lists": "list", "numbers": "number"}
"""How the names of an operand's files begin, by what is taken of it."""


@dataclass(frozen=True)
class Donor:
    """Packed data of which features are taken over."""

    folder: Path
    manifest: PackManifest
    schema: Schema
    names: dict[str, str]
    """Key of a feature → its name here."""

    @classmethod
    def of(cls, folder: Path, manifest: PackManifest) -> Self:
        """Describe packed data."""
        schema = Schema(manifest.features)
        return cls(folder, manifest, schema, {key: name for name, key in find_feature_keys(schema).items()})


@dataclass(frozen=True)
class Taken:
    """A feature of a donor."""

    donor: Donor
    name: str
    """What it is called there."""

    def operand_number(self, placement: Placement, part: str) -> int | None:
        """Find the number of its files among the operands of a placement; None if it is none."""
        names = getattr(OperandNames.of(self.donor.schema, placement), part)
        return names.index(self.name) if self.name in names else None


@dataclass(frozen=True)
class FeatureSelection:
    """The features of a config as they are found in donors."""

    schema: Schema
    keys: dict[str, str]
    donors: tuple[Donor, ...]
    """The first gives what is of no feature."""

    @classmethod
    def of(cls, schema: Schema, donors: Sequence[Donor]) -> Self:
        """Look the features up; of donors that have as many of them the first goes first."""
        keys = find_feature_keys(schema)
        ordered = sorted(donors, key=lambda donor: -len(donor.names.keys() & keys.values()))
        return cls(schema, keys, tuple(ordered))

    def find(self, name: str) -> Taken | None:
        """Find a feature; None if no donor has it."""
        key = self.keys[name]
        donor = next((donor for donor in self.donors if key in donor.names), None)
        return None if donor is None else Taken(donor, donor.names[key])

    def take(self, name: str) -> Taken:
        """Find a feature that some donor has."""
        found = self.find(name)
        assert found is not None, name
        return found

    @property
    def missing(self) -> list[str]:
        """The features that no donor has."""
        return [name for name in self.schema.features if self.find(name) is None]

    def take_operand(self, name: str, placement: Placement, part: str) -> tuple[Donor, int]:
        """Find what derived features take of a feature: a donor, and the number of its files there."""
        key = self.keys[name]
        for donor in self.donors:
            if key in donor.names:
                number = Taken(donor, donor.names[key]).operand_number(placement, part)
                if number is not None:
                    return donor, number
        raise KeyError(name)
