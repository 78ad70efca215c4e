"""How far the losses of a run contradicted each other, where `train.gradient_conflict` measured it."""

from collections.abc import Iterable, Mapping
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


def conflict_parts(run: Run) -> list[Html]:
    """A table of the pairs of losses; nothing if the run did not measure them."""
    found = read_conflicts(run)
    if not found:
        return []
    by_pair: dict[tuple[str, str], dict[str, PairConflict]] = {}
    for pair in found:
        by_pair.setdefault((pair.loss, pair.other), {})[pair.weights] = pair
    rows: list[list[Cell]] = [
        [f"{one}, {other}", *_cells(pairs)] for (one, other), pairs in _worst_first(by_pair)
    ]
    titles = [f"{group}: {what}" for group in GROUPS for what in ("cosine", "below 0")]
    words = (
        "Gradients of two losses in the weights that both learn: embedding tables, and layers of a stage that both "
        "train. Cosine: its mean over the steps measured; below 0: the share of steps at which one loss undid what the "
        "other did. Pairs that contradict each other most in the tables come first. Conflict is no fault by itself: "
        "compare a run with train.gradient_conflict.project, or with other weights of the losses, on validation."
    )
    return [heading("Gradient conflict"), text(words), table(["", *titles, "steps"], rows)]


def _worst_first(
    by_pair: Mapping[tuple[str, str], dict[str, PairConflict]],
) -> Iterable[tuple[tuple[str, str], dict[str, PairConflict]]]:
    """The pairs by their cosine in tables, those that share none last."""
    return sorted(
        by_pair.items(), key=lambda item: item[1]["tables"].cosine if "tables" in item[1] else np.inf
    )


def _cells(pairs: Mapping[str, PairConflict]) -> list[Cell]:
    """Cosine and share of each group, and the steps."""
    cells: list[Cell] = []
    for group in GROUPS:
        pair = pairs.get(group)
        cells += ["–", "–"] if pair is None else [f"{pair.cosine:+.3f}", format_metric(pair.below)]
    return [*cells, f"{max(pair.steps for pair in pairs.values()):,}"]
