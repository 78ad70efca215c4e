"""Worlds of the cascade benchmark: simulated presets, and real logs given as folders."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cascades.entries import STAGES, CascadeEntry, Plain
from corank.analysis.experiments.arms import Arm
from corank.analysis.experiments.arms_file import names_of
from corank.core.errors import ConfigError
from corank.core.reports import Report
from corank.data.packed.dataset import PackedDataset
from corank.datasets.feed.simulate import simulate_world
from corank.datasets.feed.world import PRESETS
from corank.datasets.kuairand import import_kuairand
from corank.training.config.config_file import from_plain
from corank.training.config.yaml_values import read_yaml_file
from corank.training.packed_data import open_or_pack

TOWERS: Plain = {"model": "towers", "query": [128, 64, 32], "item": [128, 64, 32], "feature_dropout": {}}
RANKER: Plain = {"model": "mlp", "hidden": [128, 64, 32]}
SIMULATED: Plain = {"epochs": 3, "requests": 32, "average": 0.98}
"""How all entries train in a simulated world; a real log keeps its own settings."""


@dataclass(frozen=True)
class CascadeWorld:
    """A packed world, and the config that entries change: the clicks of both stages, at the widths of all entries."""

    name: str
    base: Path
    """Relative paths of the config begin here."""
    value: Plain
    packed: PackedDataset
    names: Plain = field(default_factory=dict)
    """Values of the `$`-names of entries."""

    def arm(self, name: str, entry: CascadeEntry) -> Arm:
        """The config of an entry. Raises ConfigError if the world does not allow it."""
        source = f"{self.name}: entry {name}"
        try:
            value = entry.changed(self.value, self.names)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        return Arm(name, from_plain(value, source, self.base))


def check_worlds(names: Sequence[str]) -> None:
    """Raise ConfigError for a world that is neither a preset nor a folder, and for two of one name."""
    for name in names:
        if name not in PRESETS and not Path(name).is_dir():
            raise ConfigError(
                f"--worlds: no preset and no folder '{name}'; presets are {', '.join(PRESETS)}, and a folder holds a "
                "log with its config.yaml, or KuaiRand-Pure in its official layout"
            )
    called = [world_name(name) for name in names]
    if len(set(called)) < len(called):
        raise ConfigError(f"--worlds: two have the same name; received {', '.join(called)}")


def world_name(given: str) -> str:
    """The name of a world in figures: the preset, or the last part of the folder's path."""
    return given if given in PRESETS else Path(given).resolve().name.replace(".", "_")


def open_world(given: str, folder: Path, requests: int, candidates: int, report: Report) -> CascadeWorld:
    """Make a world of a preset, or open that of a log's folder, and pack it.

    Args:
        given: a preset or the folder of a log.
        folder: gets what is simulated, imported and packed; what is there is not made again.
        requests: of a simulated world.
        candidates: of each of its requests.
        report: receives a line about each step.

    Raises ConfigError, DataError.
    """
    name, base, train = world_name(given), Path(given), Plain()
    if given in PRESETS:
        base, train = folder / f"{given}-{requests}x{candidates}", SIMULATED
        if not (base / "config.yaml").exists():
            simulate_world(base, preset=given, requests=requests, candidates=candidates)
    elif not (base / "config.yaml").exists():
        base = folder / name
        if not (base / "config.yaml").exists():
            import_kuairand(Path(given), base, report)
    source = base / "config.yaml"
    value: Plain = read_yaml_file(source)
    from_plain(value, str(source), base)  # reports errors in it before it is changed
    if [stage["name"] for stage in value["stages"]] != list(STAGES):
        raise ConfigError(f"{source}: stages: expected two of the names {' and '.join(STAGES)}")
    value["stages"] = [stage | part for stage, part in zip(value["stages"], (TOWERS, RANKER), strict=True)]
    value["losses"] = [loss for loss in value["losses"] if loss["kind"] == "click"]
    value["train"] = train or value.get("train", {})
    value["packed"] = str((folder / "packed" / base.name).resolve())
    config = from_plain(value, str(source), base)
    return CascadeWorld(name, base, value, open_or_pack(config, base, report), names_of(config))
