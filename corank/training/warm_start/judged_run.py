"""A trained model applied to another packing, to be judged there: on new days, or against another run.

Each value that the run knows has its row, and every other the row of unknown values. So the model scores as it would
with its own encoders, except for values that it knows and the other packing does not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corank.core.errors import DataError
from corank.core.storage.object_url import Location
from corank.data.dataset import PackedDataset
from corank.data.packs import open_with_features
from corank.evaluation.stage_order import Calibrators
from corank.features.row_maps.row_map import PackingMap
from corank.models.joint import JointModel
from corank.training.checkpoints.training_state import check_model
from corank.training.run import Run, build_model, build_networks
from corank.training.warm_start.plan import WeightMap
from corank.training.warm_start.restore import carry_weights
from corank.training.warm_start.source import find_encoders


@dataclass(frozen=True)
class JudgedRun:
    """A run's model and calibrators, over the codes of other packed data."""

    packed: PackedDataset
    """With the run's features alone."""
    model: JointModel
    calibrators: Calibrators
    lost: dict[str, int]
    """Feature → values that the run knows and the packing does not, which count as unknown; without those of none."""

    @classmethod
    def on(cls, run: Run, location: Location) -> Self:
        """Bring a run onto packed data.

        Args:
            run: a finished run.
            location: of the packed data: a folder or a URL.

        Raises CheckpointError, StorageError; DataError if features or labels are missing there, or are encoded
        otherwise than by a vocabulary, so that the run's layers would read other numbers.
        """
        checkpoint, calibrators = run.shipped()
        packed = open_with_features(location, run.config.declared)
        _require_log(run, packed, location)
        packing_map = PackingMap(find_encoders(run, checkpoint.facts["codes"]), packed.encoders)
        _require_same_codes(run, packing_map, location)
        model = build_model(run.config, packed)
        earlier = build_networks(run.config, packing_map.earlier)
        check_model(checkpoint, earlier, run.checkpoint.path)
        carry_weights(WeightMap.find(earlier, model, packing_map), model, checkpoint, "")
        lost = {name: rows.gone for name, rows in packing_map.features.items() if rows.gone}
        return cls(packed, model, calibrators, lost)


def locate_packed(location: Location) -> Location:
    """Where packed data lie that are named by their folder, by their URL, or by the folder of a run.

    Raises DataError, StorageError if the run's data are not there.
    """
    if isinstance(location, Path) and (location / "run.json").is_file():
        return Run.open(location).packed().location
    return location


def _require_log(run: Run, packed: PackedDataset, location: Location) -> None:
    """Raise DataError unless the packed log has the levels, labels and columns that a run is judged by."""
    ours, theirs = run.config.data, packed.data
    needed = {label for stage in run.config.stages for label in stage.labels}
    for what, wanted, present in (
        ("levels", list(ours.levels), list(theirs.levels)),
        ("labels", sorted(needed), sorted(needed & set(theirs.labels))),
        ("columns", sorted(ours.columns), sorted(set(ours.columns) & set(theirs.columns))),
    ):
        if wanted != present:
            raise DataError(
                f"{location}: data.{what}: {run.folder} needs {', '.join(wanted)}; found {', '.join(present) or 'none'}"
            )


def _require_same_codes(run: Run, packing_map: PackingMap, location: Location) -> None:
    """Raise DataError if a feature is no vocabulary and is encoded otherwise than in the run."""
    odd = [name for name, rows in packing_map.features.items() if not rows.carried]
    odd += [
        name
        for name, encoder in packing_map.new.fitted.items()
        if not encoder.size
        and name in packing_map.earlier.fitted
        and not encoder.equals(packing_map.earlier.fitted[name])
    ]
    if odd:
        raise DataError(
            f"{location}: its scales, buckets or hashes are others than those that {run.folder} was trained on: "
            f"{', '.join(odd)}; judge it on data packed by `corank pack --from`, which keeps them, or compare the "
            "scores that `corank predict` writes of one log"
        )
