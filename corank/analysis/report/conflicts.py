"""How far the losses of a run contradicted each other, where `train.gradient_conflict` measured it."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from corank.analysis.curves import scalars
from corank.analysis.html import Cell, Html, heading, table, text
from corank.core.formatting import format_metric
from corank.training.run import Run

GROUPS = ("tables", "layers")
"""What is compared: all embedding tables, and the layers that both losses reach."""


class PairConflict(NamedTuple):
    """The gradients of two losses in the weights that both reach, over the steps of a training."""

    weights: str
    """`tables` or `layers`."""
    loss: str
    other: str
    steps: int
    """At which they were compared, and neither was 0."""
    cosine: float
    """Its mean."""
    below: float
    """Share of the steps at which it was below 0: one loss undid what the other did."""


Conflicts = dict[tuple[str, str], PairConflict]
"""Of one pair of losses: run and weights → what was measured."""


def read_conflicts(run: Run) -> list[PairConflict]:
    """What a run's events hold, in the order of the config's losses; none unless it measured it."""
    held = scalars(run.folder / "events")
    names = [name for name, _ in run.config.total.select(None)]
    found = []
    for group in GROUPS:
        for one, other in combinations(names, 2):
            if (series := held.get(f"cosine/{group}/{one}/{other}")) is not None:
                cosines = np.asarray(series.y)
                mean, below = float(cosines.mean()), float((cosines < 0).mean())
                found.append(PairConflict(group, one, other, len(cosines), mean, below))
    return found


def conflict_parts(runs: Mapping[str, Run]) -> list[Html]:
    """The `conflict_table` of some runs, each with its name."""
    return conflict_table({name: read_conflicts(run) for name, run in runs.items()})


def conflict_table(measured: Mapping[str, Sequence[PairConflict]]) -> list[Html]:
    """A table of the pairs of losses, runs side by side by their names; nothing if none measured any.

    A pair stands once; a run that has not both losses, or did not measure them, has dashes there.
    """
    by_pair: dict[tuple[str, str], Conflicts] = {}
    for run, pair in ((run, pair) for run, found in measured.items() for pair in found):
        losses = pair.loss, pair.other
        # the other run's config may name the two the other way round
        held = by_pair.setdefault(losses[::-1] if losses[::-1] in by_pair else losses, {})
        held[run, pair.weights] = pair
    if not by_pair:
        return []
    rows: list[list[Cell]] = [
        [f"{one}, {other}", *_cells(pairs, list(measured))] for (one, other), pairs in _worst_first(by_pair)
    ]
    words = (
        "Gradients of two losses in the weights that both learn: embedding tables, and layers of a stage that both "
        "train. Cosine: its mean over the steps measured; below 0: the share of steps at which one loss undid what the "
        "other did. Pairs that contradict each other most in the tables come first. Conflict is no fault by itself: "
        "compare a run with train.gradient_conflict.project, or with other weights of the losses, on validation."
    )
    titles = [f"{group}: {what}" for group in GROUPS for what in ("cosine", "below 0")]
    columns = [f"{title} {name}".strip() for title in [*titles, "steps"] for name in measured]
    return [heading("Gradient conflict"), text(words), table(["", *columns], rows)]


def _worst_first(
    by_pair: Mapping[tuple[str, str], Conflicts],
) -> Iterable[tuple[tuple[str, str], Conflicts]]:
    """The pairs by their least cosine in tables, those that share none last."""

    def least(pairs: Conflicts) -> float:
        return min((pair.cosine for pair in pairs.values() if pair.weights == "tables"), default=np.inf)

    return sorted(by_pair.items(), key=lambda item: least(item[1]))


def _cells(pairs: Conflicts, runs: Sequence[str]) -> list[Cell]:
    """Cosine and share of each group, and the steps, each of every run."""
    cells: list[Cell] = []
    for group in GROUPS:
        held = [pairs.get((run, group)) for run in runs]
        cells += ["–" if pair is None else f"{pair.cosine:+.3f}" for pair in held]
        cells += ["–" if pair is None else format_metric(pair.below) for pair in held]
    for run in runs:
        steps = [pair.steps for (of, _), pair in pairs.items() if of == run]
        cells.append(f"{max(steps):,}" if steps else "–")
    return cells
