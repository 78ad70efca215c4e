"""The figures of new rows, each compared with that of the run and judged by its threshold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corank.features.schema import Schema
from corank.training.validation.encoded_rows import EncodedRows, FeatureComparison
from corank.training.validation.figure import ValidationFigure, is_within, judge
from corank.training.validation.new_rows import NewRows
from corank.training.validation.packed_rows import ReferenceRows
from corank.training.validation.settings import ValidationSettings
from corank.training.validation.stability import chance_of_shares

OTHER_HOURS = 3
"""The power of the default factor of rows where only other hours are known: from evening to night they fall to a third.
A factor that a config gives holds as it is."""


@dataclass(frozen=True)
class RowJudgement:
    """Judges how many rows there are, of which levels, and with which labels."""

    settings: ValidationSettings
    reference: ReferenceRows
    new: NewRows

    def figures(self) -> Iterator[ValidationFigure]:
        """The number of rows, then levels, then labels."""
        yield self._rows()
        if self.new.config.data.level is not None and len(self.new):
            yield from self._levels()
        yield from self._labels()

    def _rows(self) -> ValidationFigure:
        now, most = len(self.new), self.settings.rows
        before, same_hours = self.reference.rows_per_period(self.new.begin, self.new.end)
        explicit = "rows" in self.settings.model_fields_set
        if most is not None and not same_hours and not explicit:
            most **= OTHER_HOURS
        usual = before or 0.0
        enough = max(usual, now) >= self.settings.min_count
        verdict = judge(most, lambda factor: is_within(factor, usual, now), enough and before is not None)
        reason = (
            f"{now:,} new candidates from {self.new.span}, {usual:,.0f} in earlier periods of that length; look for "
            + ("files that are missing or not complete" if now < usual else "files that are there twice")
        )
        return ValidationFigure("rows", "log", before, float(now), most, verdict, reason)

    def _levels(self) -> Iterator[ValidationFigure]:
        counts, total, most = self.reference.level_counts(), len(self.new), self.settings.levels
        for n, level in enumerate(self.new.config.data.levels):
            before, now = float(counts[n] / counts.sum()), self.new.levels[n] / total
            enough = max(before, now) * total >= self.settings.min_count
            verdict = judge(most, lambda factor: is_within(factor, before, now), enough)  # noqa: B023
            reason = (
                f"level '{level}' is {now:.2%} of the candidates, and was {before:.2%}; look for a part of the log "
                "that is missing, or a change of what a stage keeps"
            )
            yield ValidationFigure("levels", level, before, now, most, verdict, reason)

    def _labels(self) -> Iterator[ValidationFigure]:
        most = self.settings.labels
        for name, label in self.new.labels.items():
            before, now = self.reference.label_rate(name), label.rate
            usual, rate = before or 0.0, now or 0.0
            rows = label.positives + label.negatives + label.null
            enough = max(usual, rate) * rows >= self.settings.min_count and before is not None
            verdict = judge(most, lambda factor: is_within(factor, usual, rate), enough)  # noqa: B023
            state = "is nowhere known" if now is None else f"is 1 in {now:.2%} of the exposed candidates"
            reason = (
                f"label '{name}' {state}, and was in {usual:.2%}; look at column "
                f"'{self.new.config.data.labels[name].column}' and at how it is joined"
            )
            yield ValidationFigure("labels", name, before, now, most, verdict, reason)


@dataclass(frozen=True)
class FeatureJudgement:
    """Judges features: what is missing, what is unknown, and how they are distributed."""

    settings: ValidationSettings
    comparisons: Sequence[FeatureComparison]
    histories: Sequence[FeatureComparison]
    """Of the run's validation rows, as histories grow with the log; none if it has no such rows."""
    later: EncodedRows | None
    """The run's validation rows, of which its encoders know as little as of new ones; None if it has none."""
    schema: Schema
    same_hours: bool
    """Whether most are of the same hours of the day; otherwise what depends on these is not judged."""

    def figures(self) -> Iterator[ValidationFigure]:
        """Missing rates, then new ids, then PSI; of histories each in turn."""
        for comparison in self.comparisons:
            yield self._missing(comparison)
        for comparison in self.comparisons:
            if comparison.has_vocabulary:
                yield self._new_ids(comparison)
        for comparison in self.comparisons:
            value = comparison.stability()
            if value is not None:
                yield self._stability(comparison, value)
        for comparison in self.histories:
            yield self._empty(comparison)
            if comparison.has_vocabulary:
                yield self._new_ids(comparison)
            yield ValidationFigure("psi", comparison.name, 0.0, comparison.length_stability(), None, "off")

    def _enough(self, share: float, comparison: FeatureComparison) -> bool:
        return share * len(comparison.now) >= self.settings.min_count

    def _comparable(self, comparison: FeatureComparison) -> bool:
        """Whether there are rows enough, and of the same hours if the feature is of the context."""
        return self._enough(1.0, comparison) and (
            self.same_hours or self.schema.side(comparison.name) != "context"
        )

    def _missing(self, comparison: FeatureComparison) -> ValidationFigure:
        before, now = comparison.missing(comparison.before), comparison.missing(comparison.now)
        was, rate = before or 0.0, now or 0.0
        chance = chance_of_shares(
            was, rate, comparison.units(comparison.before), comparison.units(comparison.now)
        )
        # a feature that is mostly missing may go altogether without the share changing much
        gone = rate == 1 and self._enough(1 - was, comparison)
        verdict = judge(
            self.settings.missing,
            lambda most: abs(rate - was) <= most + chance and not gone,
            self._enough(max(was, rate, 1 - rate), comparison),
        )
        reason = (
            f"feature '{comparison.name}' is missing in {rate:.1%} of the candidates, and was in {was:.1%}; look at "
            f"{comparison.origin} and at how its table is joined"
        )
        return ValidationFigure(
            "missing", comparison.name, before, now, self.settings.missing, verdict, reason
        )

    def _empty(self, comparison: FeatureComparison) -> ValidationFigure:
        """Judge a history: it may be there for more users than before, but not for fewer."""
        before, now = comparison.missing(comparison.before), comparison.missing(comparison.now)
        was, rate = before or 0.0, now or 0.0
        chance = chance_of_shares(
            was, rate, comparison.units(comparison.before), comparison.units(comparison.now)
        )
        most = self.settings.missing
        verdict = judge(
            most, lambda most: rate - was <= most + chance, self._enough(max(rate, 1 - was), comparison)
        )
        reason = (
            f"history '{comparison.name}' is empty for {rate:.1%} of the candidates, and was for {was:.1%} of those of "
            "the run's validation; look for user ids that are written in another way, and for events that are missing"
        )
        return ValidationFigure("missing", comparison.name, before, now, most, verdict, reason)

    def _new_ids(self, comparison: FeatureComparison) -> ValidationFigure:
        before = None if self.later is None else comparison.unknown(self.later)
        now = comparison.unknown(comparison.now)
        was, rate = before or 0.0, now or 0.0
        chance = (
            0.0
            if self.later is None
            else chance_of_shares(was, rate, comparison.units(self.later), comparison.units(comparison.now))
        )
        most = None if comparison.name in self.settings.unjudged else self.settings.new_ids
        verdict = judge(most, lambda most: rate - was <= most + chance, self._comparable(comparison))
        reason = (
            f"feature '{comparison.name}': the run does not know {rate:.1%} of the values, and {was:.1%} of those just "
            "after it; look for ids that are written in another way, or train on more days"
        )
        return ValidationFigure("new_ids", comparison.name, before, now, most, verdict, reason)

    def _stability(self, comparison: FeatureComparison, value: float) -> ValidationFigure:
        most = None if comparison.name in self.settings.unjudged else self.settings.psi
        verdict = judge(most, lambda most: value <= most, self._comparable(comparison))
        reason = (
            f"feature '{comparison.name}' is distributed otherwise than in training (PSI {value:.2f}); look for "
            f"another unit or meaning of {comparison.origin.rstrip(',')}"
        )
        return ValidationFigure("psi", comparison.name, 0.0, value, most, verdict, reason)
