"""A run evaluated on one split, as a whole or group by group: by day, by a feature, or by a column of the log.

Letters: C candidates.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corank.analysis.kept_predictions import KeptPredictions
from corank.core.lazy import lazy
from corank.core.objects import Location
from corank.core.page import PageSettings
from corank.core.reports import Progress
from corank.core.types import Floats, Longs
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.groups import CandidateGroups, group_candidates, select_candidates
from corank.evaluation.inputs import CascadeRows, Subject
from corank.evaluation.pages import fill_pages, page_inputs
from corank.evaluation.predictions import (
    Calibrators,
    Predictions,
    Truth,
    order_scores,
    read_truth,
    require_split,
    true_values,
)
from corank.evaluation.rows import Row
from corank.evaluation.table import (
    Figure,
    cascade_rows,
    count_rows,
    measure,
    rate_rows,
    reasons_of,
    subjects_of,
)
from corank.metrics.inputs import Inputs
from corank.models.settings.stage import StageSettings
from corank.training.run import Run

if TYPE_CHECKING:
    from corank.evaluation import item_parts, predict
    from corank.training import weight_transfer
else:  # what predicts: the figures of what is predicted need no torch
    item_parts = lazy("corank.evaluation.item_parts")
    predict = lazy("corank.evaluation.predict")
    weight_transfer = lazy("corank.training.weight_transfer")


@dataclass(frozen=True)
class Evaluation:
    """A run with its predictions on one split. What they are measured by is computed when it is read first."""

    run: Run
    split: str
    packed: PackedDataset
    calibrators: Calibrators
    predictions: Predictions
    on: Location | None = None
    """Packed data that it is judged on, if they are not its own."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Of a run on another packing: feature → values that the run knows and the packing does not."""
    unbiased: Predictions | None = None
    """Those of a run without selection bias, for `bias_regret`."""
    groups: CandidateGroups | None = None
    """Of the candidates, if each group is evaluated as if it were the split."""
    bootstrap: bool = True
    """Whether the rows have intervals."""

    @cached_property
    def truth(self) -> Truth:
        """The true probabilities of the split, as far as they are known. Raises DataError."""
        return read_truth(self.packed, self.split)

    @cached_property
    def cascade(self) -> CascadeRows:
        """The candidates as the stages order them."""
        return cascade_rows(self.predictions, self.run.config.stages, self.calibrators, self.truth)

    @cached_property
    def _parts(self) -> list[tuple[str, Predictions, Truth]]:
        """The candidates of each group with its name; without groups all of them."""
        if self.groups is None:
            return [("", self.predictions, self.truth)]
        names, of = self.groups.names, self.groups.of
        selected = (select_candidates(self.predictions, self.truth, of == n) for n in range(len(names)))
        return [(name, *part) for name, part in zip(names, selected, strict=True)]

    def _subjects(self) -> Iterator[Subject]:
        config, whole = self.run.config, self.groups is None or self.groups.of_requests
        for group, rows, true in self._parts:
            known = (config.stages, config.data.levels, self.calibrators, true, self.unbiased, whole, group)
            yield from subjects_of(rows, *known)
        if config.page is not None and self.groups is None:
            yield Subject("", "", "page", self.page_inputs(config.page))

    @cached_property
    def figures(self) -> list[Figure]:
        """All metrics. Raises DataError if the run without selection bias has other rows."""
        return measure(self._subjects())

    @cached_property
    def rows(self) -> list[Row]:
        """The table of figures."""
        run, stages, parts = str(self.run.folder), self.run.config.stages, self._parts
        counts = (row for group, part, _ in parts for row in count_rows(part, run, self.split, group))
        figures = (figure.row(run, self.split, self.bootstrap) for figure in self.figures)
        rates = (
            row
            for group, part, _ in parts
            for row in rate_rows(part, stages, self.calibrators, run, self.split, group)
        )
        return [*counts, *figures, *rates]

    def page_inputs(self, page: PageSettings, most: int | None = None) -> Inputs:
        """Fill pages of some settings, as serving does, and give what metrics of pages read.

        Args:
            page: the settings; those of the run, or others that need no other data.
            most: about so many requests, evenly over the split; all unless given.
        """
        part = None if page.item_part is None else partial(self._item_part, page.item_part)
        pages = fill_pages(page, self.packed, self.split, self.cascade, part, most)
        return page_inputs(page, self.packed, self.split, self.cascade, pages)

    def _item_part(self, part: str, at: Longs) -> Floats:
        """An item part of some candidates of the split: (a, d)."""
        on, run = self.on, self.run
        model = run.model(self.packed)[0] if on is None else weight_transfer.bring_onto(run, on)[1]
        return item_parts.part_of_candidates(model, self.packed, self.split, part, at)

    @cached_property
    def document(self) -> dict[str, Any]:
        """As printed by `corank evaluate --json`."""
        facts: dict[str, Any] = {"folder": str(self.run.folder), "split": self.split}
        facts["stages"] = [stage.name for stage in self.run.config.stages]
        if self.groups is not None:
            facts |= {"by": self.groups.by, "whole_requests": self.groups.of_requests}
        if self.on is not None:
            facts |= {"on": str(self.on), "lost": dict(self.lost)}
        reasons = reasons_of(self.figures) if self.groups is None else {}
        return {"rows": self.rows, "run": facts} | ({"reasons": reasons} if reasons else {})

    def ranks(self, stage: StageSettings) -> NDArray[np.int64]:
        """Rank of each candidate within its request, 0 the best: (C,)."""
        scores = order_scores(self.predictions, stage, self.calibrators[stage.name])
        return self.predictions.requests.ranks(scores)

    def true_value(self, stage: StageSettings) -> Floats | None:
        """The stage's value computed from the true probabilities: (C,); None if the truth is unknown."""
        return true_values(self.predictions, stage, self.truth)


def evaluate_run(
    run: Run,
    split: str,
    bootstrap: bool = True,
    reference: Run | None = None,
    progress: Progress = lambda done, total: None,
    on: Location | None = None,
    by: str | None = None,
) -> Evaluation:
    """Evaluate a run on a split.

    Args:
        run: a finished run.
        split: `train`, `valid` or `test`.
        bootstrap: whether to compute intervals.
        reference: a run on the same packed data without selection bias, for `bias_regret`.
        progress: receives how many requests are scored, and of how many, of each of the runs.
        on: packed data to judge the run on, of other days or another packing; its own unless given.
        by: evaluate group by group: `day`, a feature with one code a row, or a column of the log. Without whole
            requests in a group there is no cascade.

    Raises:
        CheckpointError: if a run is not finished or damaged.
        DataError: if the split does not exist or is empty, or the reference has other rows.
    """
    predicted = predict_run(run, split, progress, on)
    unbiased = None if reference is None else predict_run(reference, split, progress, on).predictions
    groups = (
        None if by is None else group_candidates(predicted.packed, run.base, split, predicted.predictions, by)
    )
    return replace(predicted, unbiased=unbiased, bootstrap=bootstrap, groups=groups)


def predict_run(
    run: Run,
    split: str,
    progress: Progress = lambda done, total: None,
    on: Location | None = None,
) -> Evaluation:
    """Open a run, and predict a split of its packed data, or of those at `on`.

    Of its own packed data the run keeps the predictions, and they are read if it has them: the same to the bit.

    Raises CheckpointError, StorageError, and DataError if there is no such split, or the run cannot be judged there.
    """
    if on is None:
        return predict_packed(run, run.packed(), split, progress)
    packed, model, calibrators, lost = weight_transfer.bring_onto(run, on)
    require_split(packed, split)
    packed.verify([split])
    predictions = predict.predict_split(model, packed, split, progress=progress)
    return Evaluation(run, split, packed, calibrators, predictions, on, lost)


def predict_packed(
    run: Run, packed: PackedDataset, split: str, progress: Progress = lambda done, total: None
) -> Evaluation:
    """Predict a split of a run's own packed data, or read the predictions if the run has them. See `predict_run`."""
    require_split(packed, split)
    trained, calibrators = run.described(packed)
    packed.verify([split])
    kept = KeptPredictions.of(run, packed, split, trained)
    if (predictions := kept.read()) is None:
        model, calibrators = run.model(packed)
        predictions = predict.predict_split(model, packed, split, progress=progress)
        if run.described(packed)[0].digest == trained.digest:  # no other training ended meanwhile
            kept.keep(predictions)
    return Evaluation(run, split, packed, calibrators, predictions)
