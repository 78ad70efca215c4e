"""The packed data of arms: those of the config as written, or others if an arm's features or data differ."""

from dataclasses import dataclass, field
from pathlib import Path

from corank.core.errors import DataError
from corank.core.types import Report
from corank.data.dataset import PackedDataset
from corank.data.pack_manifest import fingerprint, packed_settings
from corank.data.packing.pack import pack_log
from corank.training.config import Config


@dataclass(frozen=True)
class TrialData:
    """Opens the packed data of arms, and packs those that there are none of."""

    packed: PackedDataset
    """Of the config as written."""
    base: Path
    """Relative paths of configs begin here."""
    folder: Path
    """The folder of other packings."""
    report: Report = lambda line: None
    _opened: dict[str, PackedDataset] = field(default_factory=dict)

    def of(self, config: Config) -> PackedDataset:
        """The packed data of a config. Raises DataError."""
        ours, theirs = (packed_settings(f) for f in (config.declared.features, self.packed.manifest.features))
        if ours == theirs and config.data == self.packed.data:
            return self.packed.with_features(config.declared)
        expected = fingerprint(config.data, config.declared, self.base)
        if expected not in self._opened:
            self._opened[expected] = self._open(config, expected)
        return self._opened[expected].with_features(config.declared)

    def _open(self, config: Config, expected: str) -> PackedDataset:
        folder = self.folder / "packed" / expected[:12]
        try:
            return PackedDataset.open(folder, expect=expected)
        except DataError:
            self.report(f"packing other features: {folder}")
            return pack_log(config.data, config.declared, self.base, folder, self.report)
