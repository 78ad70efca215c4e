"""An earlier packing, which another continues."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from corank.core.time import FOREVER
from corank.data.dataset import PackedDataset
from corank.data.pack_manifest import ContinuedFrom, PackManifest
from corank.data.state.value_counts import read_counts_of_values
from corank.features.counts.growth import GROWTH, EarlierTally
from corank.features.encoders import Encoders
from corank.features.encoding import Encoder
from corank.features.schema import Schema
from corank.features.vocabulary import Vocabulary


@dataclass(frozen=True)
class EarlierPack:
    """Packed data that a packing continues: their state is reused, their rows are not read again."""

    folder: Path
    """Of the packed data, or of a copy of all but the shards."""
    location: str
    """Their folder or URL, for messages."""
    manifest: PackManifest
    through: int
    """Rows before it, ms UTC, were trained on or are history; rows from it on are new."""
    fixed: bool = False
    """Whether vocabularies are frozen."""

    @classmethod
    def of(cls, packed: PackedDataset, fixed: bool = False) -> Self:
        """Describe packed data."""
        manifest, location = packed.manifest, packed.location
        named = str(location.absolute() if isinstance(location, Path) else location)
        return cls(packed.folder, named, manifest, manifest.through, fixed)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state sent to a worker, without what is mapped here."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def origin(self) -> ContinuedFrom:
        """The record of these in the manifest of the new packed data."""
        return ContinuedFrom(
            location=self.location,
            fingerprint=self.manifest.fingerprint,
            through=self.through,
            fixed=self.fixed,
        )

    @cached_property
    def schema(self) -> Schema:
        """The features."""
        return Schema(self.manifest.features)

    @cached_property
    def encoders(self) -> Encoders:
        """The encoders."""
        return Encoders.load(self.folder / "encoders", self.schema)

    def find_carried(self, schema: Schema) -> frozenset[str]:
        """Name the features of a config that are those of the earlier packing: their encoders are reused.

        They have the same name, settings (but those of growth, and those that networks alone read) and column, and are
        made of such features. Of an operand whose values themselves are taken, column and kind are enough.
        """
        carried: dict[str, bool] = {}

        def is_carried(name: str) -> bool:
            if name not in carried:
                before, now = self.schema.features.get(name), schema.features[name]
                carried[name] = (
                    before is not None
                    and _settings(self.schema, name) == _settings(schema, name)
                    and all(
                        is_carried(part) or has_same_values(part, name) for part in sorted(schema.needs(name))
                    )
                    and type(before) is type(now)
                )
            return carried[name]

        def has_same_values(part: str, name: str) -> bool:
            before, now = self.schema.features.get(part), schema.features[part]
            same = type(before) is type(now) and self.schema.column(part) == schema.column(part)
            return same and "id" in now.uses and schema.features[name].as_derived is not None

        return frozenset(name for name in schema.features if is_carried(name))

    def frozen(self, schema: Schema) -> Mapping[str, Encoder]:
        """The encoders that are reused unchanged: scales, buckets, hashes."""
        carried, fitted = self.find_carried(schema), self.encoders.fitted
        return {
            name: fitted[name]
            for name in schema.features
            if name in carried and name in fitted and self.tally(name) is None
        }

    def tally(self, name: str) -> EarlierTally | None:
        """The counts of the values of a feature; None if it has no vocabulary."""
        counts, encoder = (
            read_counts_of_values(self.folder, self.schema, name),
            self.encoders.fitted.get(name),
        )
        if counts is None or not isinstance(encoder, Vocabulary):
            return None
        return EarlierTally(counts, encoder.values, self.through, self.fixed)


def _settings(schema: Schema, name: str) -> dict[str, Any]:
    feature = schema.features[name]
    left_out = {*feature.unpacked_settings, *GROWTH}
    return feature.model_dump(mode="json", exclude=left_out) | {"column": schema.column(name)}


def end_of_training(training_end: int, last: int) -> int:
    """Return when training ends, ms UTC: after the last row of the log, if that is before, or by no time."""
    return min(training_end, last + 1) if training_end != FOREVER else last + 1
