"""Finds the run that a training starts from, and plans it before an earlier training is replaced."""

import os
from pathlib import Path

from corank.core.errors import CheckpointError, ConfigError
from corank.core.storage.object_url import Location, parse_location
from corank.data.dataset import PackedDataset
from corank.training.config import Config
from corank.training.run import Run
from corank.training.warm_start.description import describe_plan
from corank.training.warm_start.origin import Origin
from corank.training.warm_start.plan import WarmStartPlan
from corank.training.warm_start.source import CarrySource


def plan_warm_start(source: Location, config: Config, packed: PackedDataset) -> WarmStartPlan:
    """Find what the model of a config takes over from a run.

    Raises CheckpointError if the run has not finished or is damaged, DataError if its encoders are gone.
    """
    return WarmStartPlan.of(CarrySource.open(source), config, packed.encoders)


def describe_origin(plan: WarmStartPlan, run: Run) -> Origin:
    """Say what a run begins as, to be kept in its folder."""
    source, location = plan.source, plan.source.location
    if isinstance(location, Path):
        # a run in object storage lies in a working folder now
        name = os.path.relpath(location, run.folder) if run.publish is None else str(location.absolute())
    else:
        name = str(location)
    return Origin(
        run=name,
        step=source.progress.step,
        epochs=source.epochs,
        codes=str(source.latest.facts["codes"]),
        parts=describe_plan(plan),
    )


def locate_origin(run: Run) -> Location | None:
    """Where the run lies that a run took its weights over from; None if it began at random ones."""
    if run.origin is None:
        return None
    location = parse_location(run.origin.run)
    return (run.folder / location).resolve() if isinstance(location, Path) else location


def find_source(run: Run, given: Location | None, resume: bool) -> Location | None:
    """Find the run that a training starts from: that of `--from`, or that of a resumed training.

    Args:
        run: the new run, whose folder may hold a training.
        given: by `--from`.
        resume: whether a training in the folder continues.

    Raises ConfigError if it is the run itself, CheckpointError if a training started from another run.
    """
    if isinstance(given, Path) and given.resolve() == run.folder.resolve():
        raise ConfigError(f"--from: {given} is the run itself; write the new one elsewhere by --run")
    if not resume or not (run.folder / "run.json").is_file():
        return given
    recorded = locate_origin(Run.open(run.folder))
    if given is None:
        return recorded
    wanted = given.resolve() if isinstance(given, Path) else given
    if Run.has_begun(run.folder) and recorded != wanted:
        raise CheckpointError(
            f"{run.folder}: its training began "
            f"{'at random weights' if recorded is None else f'from {recorded}'}; received --from {given}: "
            "leave --from out, or begin anew with --overwrite"
        )
    return given


def require_epochs(config: Config, source: Location | None) -> None:
    """Raise ConfigError if nothing would be trained, and no trained weights are taken over."""
    if config.train.epochs == 0 and source is None:
        raise ConfigError(
            "train.epochs: 0 trains nothing; write 1 or more, or take weights over by --from RUN"
        )
