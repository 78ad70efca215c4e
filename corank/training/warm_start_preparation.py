"""Finds the run that a training starts from, plans that before an earlier training is replaced, and describes it."""

import os
from collections.abc import Iterator
from pathlib import Path

from corank.core.errors import CheckpointError, ConfigError
from corank.core.objects import Location
from corank.features.encoding import FIRST_KNOWN
from corank.features.row_map import FeatureRows
from corank.training.config.config import Config
from corank.training.run import Run
from corank.training.run_file import RUN_FILE, CarriedPart, Origin, State
from corank.training.warm_start_plan import LayerMap, WarmStartPlan


def describe_plan(plan: WarmStartPlan) -> list[CarriedPart]:
    """List what is carried over, begins fresh and is gone: rows by feature, then layers, optimisers, the average."""
    return [
        *(_describe_rows(rows) for rows in plan.rows.features.values()),
        *_describe_sets(plan),
        *_describe_scales(plan),
        *_describe_layers(plan),
        *_describe_rest(plan),
    ]


def _part(part: str, name: str, state: State, note: str = "") -> CarriedPart:
    return CarriedPart(part=part, name=name, state=state, note=note)


def _describe_rows(feature_rows: FeatureRows) -> CarriedPart:
    rows = len(feature_rows.rows.source)
    if feature_rows.carried:
        note = f"{feature_rows.kept:,} kept, {feature_rows.new:,} new, {feature_rows.gone:,} gone"
        return _part("rows", feature_rows.feature, "carried", note)
    if not rows:
        return _part("rows", feature_rows.feature, "gone", f"{feature_rows.earlier - FIRST_KNOWN:,} rows")
    return _part(
        "rows", feature_rows.feature, "fresh", feature_rows.reason or f"new: {rows - FIRST_KNOWN:,} rows"
    )


def _describe_sets(plan: WarmStartPlan) -> Iterator[CarriedPart]:
    for name, earlier in plan.sets.items():
        if earlier is None:
            yield _part("tables", name, "fresh", "no such tables before")
        elif earlier != name:
            yield _part("tables", name, "carried", f"begin as the {earlier} ones")
    for name in plan.source.networks.table_sets:
        if name not in plan.sets.values():
            yield _part("tables", name, "gone")


def _describe_scales(plan: WarmStartPlan) -> Iterator[CarriedPart]:
    before, now = plan.rows.earlier.fitted, plan.rows.new.fitted
    for name, encoder in now.items():
        if name in before and not encoder.size and not encoder.equals(before[name]):
            yield _part(
                "scale", name, "fresh", "fitted anew: the layers read other numbers for the same value"
            )


def _describe_layers(plan: WarmStartPlan) -> Iterator[CarriedPart]:
    for group in dict.fromkeys(map(_group, [*plan.carried, *plan.fresh, *plan.gone])):
        carried = {name: layer for name, layer in plan.carried.items() if _group(name) == group}
        fresh = {name: reason for name, reason in plan.fresh.items() if _group(name) == group}
        gone = [name for name in plan.gone if _group(name) == group]
        title = group.partition(".")[2] if group.startswith(("stages.", "teachers.")) else group
        if not carried:
            state: State = "fresh" if fresh else "gone"
            yield _part("layers", title, state, next(filter(None, fresh.values()), ""))
            continue
        in_part = {name: layer for name, layer in carried.items() if not layer.whole}
        whole = len(carried) - len(in_part)
        state = "in part" if in_part or fresh else "carried"
        yield _part("layers", title, state, f"{whole} of {len(carried) + len(fresh)} weights as they are")
        for name, layer in in_part.items():
            yield _part("layers", _short(name), "in part", _changes(layer))
        for name, reason in fresh.items():
            yield _part("layers", _short(name), "fresh", reason or "new")
        for name in gone:
            yield _part("layers", _short(name), "gone")


def _group(name: str) -> str:
    """The network of a weight, or the projections of a set of tables."""
    return ".".join(name.split(".")[:2])


def _short(name: str) -> str:
    return name.partition(".")[2] if name.startswith(("stages.", "teachers.")) else name


def _changes(layer: LayerMap) -> str:
    new, gone = layer.changes
    parts = [f"{word}: {', '.join(names)}" for word, names in (("new", new), ("gone", gone)) if names]
    return "; ".join(parts) or "in another order"


def _describe_rest(plan: WarmStartPlan) -> Iterator[CarriedPart]:
    before, now = plan.source.run.config.train, plan.config.train
    if plan.same_table_optimiser:
        yield _part(
            "optimiser", "tables", "carried", f"{now.table.optimiser}; new rows begin without a state"
        )
    else:
        yield _part(
            "optimiser", "tables", "fresh", f"{before.table.optimiser} before, {now.table.optimiser} now"
        )
    yield _part("optimiser", "layers", "carried", "of weights that are carried")
    if plan.carries_average:
        yield _part("average", "", "carried")
    elif now.average is not None:
        yield _part("average", "", "fresh", "begins at the weights")
    elif before.average is not None:
        yield _part("average", "", "gone", "train.average is not set now")
    if plan.source.kept is not None:
        note = f"of epoch {plan.source.progress.best_epoch}, which early stopping kept"
        yield _part("weights", "", "carried", note)
    yield _part("calibrators", "", "fresh", "fitted after training")


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
    if not resume or not (run.folder / RUN_FILE).is_file():
        return given
    recorded = Run.open(run.folder).locate_origin()
    if given is None:
        return recorded
    wanted = given.resolve() if isinstance(given, Path) else given
    if Run.has_begun(run.folder) and recorded != wanted:
        raise CheckpointError(
            f"{run.folder}: its training began "
            f"{'at random weights' if recorded is None else f'from {recorded}'}; received --from {given}: "
            "leave --from out, or start over with --overwrite"
        )
    return given


def require_epochs(config: Config, source: Location | None) -> None:
    """Raise ConfigError if nothing would be trained, and no trained weights are taken over."""
    if config.train.epochs == 0 and source is None:
        raise ConfigError("train.epochs: 0 trains nothing; write 1 or more, or take weights by --from RUN")
