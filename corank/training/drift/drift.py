"""New rows of a config's tables compared with what a run was trained on, before anything is trained.

The log is counted as it is; features are compared as they are packed, by `pack --from` into a temporary folder.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from corank.batches.sampling import SplitCounts
from corank.core.errors import ConfigError, DataError, DiskError
from corank.core.ragged import Vectors
from corank.core.time import FOREVER, format_time
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.earlier_pack import EarlierPack
from corank.data.packing.pack import pack_log
from corank.engine.base import open_engine
from corank.features.encoders import Encoders
from corank.features.encoding import Vocabulary
from corank.training.checks.log_profile import count_splits, open_log
from corank.training.checks.split_rows import SplitRows
from corank.training.config.config import Config
from corank.training.config.settings import DriftSettings
from corank.training.drift.encoded_rows import (
    ComparedFeatures,
    EncodedRows,
    FeatureProfile,
    encode_period,
    encode_requests,
    open_packed_of,
    rows_per_period,
    sample_requests,
)
from corank.training.drift.figure import DriftFigure, times
from corank.training.drift.report import DriftReport
from corank.training.drift.tables import check_new_values, compare_columns, count_new_rows, unfit_values
from corank.training.run import Run

OTHER_HOURS = 3
"""The power of the default factor of rows where only other hours are known: from evening to night they fall to a third.
A factor that a config gives holds as it is."""


def judge_counts(
    config: Config, packed: PackedDataset, before: SplitCounts, new: SplitCounts, begin: int, end: int
) -> Iterator[DriftFigure]:
    """Judge how many rows there are in a period, of which levels, and with which labels."""
    settings, data, now = config.drift, packed.data, sum(new.levels)
    usual, same_hours = rows_per_period(packed, begin, end)
    few, most = usual or 0.0, settings.rows
    if most is not None and not same_hours and "rows" not in settings.model_fields_set:
        most **= OTHER_HOURS
    look = "files that are missing or not complete" if now < few else "files that are there twice"
    said = (
        f"new candidates from {format_time(begin)} to {format_time(end)}, beside those of earlier periods of that "
        f"length; look for {look}"
    )
    enough = max(few, now) >= settings.min_count and usual is not None
    yield DriftFigure.judged("rows", "log", (usual, float(now)), most, times(few, now), enough, said)

    for n, level in enumerate(data.levels if data.level is not None and now else ()):
        was, share = before.levels[n] / sum(before.levels), new.levels[n] / now
        said = (
            "another share of the candidates than in training; look for a part of the log that is missing, or a change "
            "of what a stage keeps"
        )
        enough, excess = max(was, share) * now >= settings.min_count, times(was, share)
        yield DriftFigure.judged("levels", level, (was, share), settings.levels, excess, enough, said)

    for name, label in new.labels.items():
        rates = before.labels[name].rate, label.rate
        was, rate = rates[0] or 0.0, rates[1] or 0.0
        state = "nowhere known" if rates[1] is None else "1 in another share of the exposed candidates"
        said = f"{state}; look at column '{data.labels[name].column}' and at how it is joined"
        # of those that are old enough, and whose condition happened
        enough = max(was, rate) * (label.known + label.null) >= settings.min_count and rates[0] is not None
        yield DriftFigure.judged("labels", name, rates, settings.labels, times(was, rate), enough, said)


@dataclass(frozen=True)
class FeatureJudgement:
    """Judges features: what is missing, what is unknown, and how they are distributed."""

    settings: DriftSettings
    encoders: Encoders
    """Of the run."""
    own: Collection[str]
    """The columns of the ids of users and items."""
    before: EncodedRows
    later: EncodedRows | None
    """The run's validation rows, of which its encoders know as little as of new ones; None if it has none."""
    now: EncodedRows
    """Of a day that was packed without its last hours, the same hours are compared."""
    same_hours: bool
    """Whether most are of the same hours of the day; otherwise what depends on these is not judged."""

    def figures(self, compared: ComparedFeatures) -> Iterator[DriftFigure]:
        """Missing rates, then new ids, then PSI; of histories, which grow with the log, each in turn."""
        yield from (self._missing(name, self.before) for name in compared.single)
        yield from (self._new_ids(name) for name in compared.single if self._has_vocabulary(name))
        numbered = (n for n in compared.single if not isinstance(self.now.encoded[n], Vectors))
        yield from map(self._stability, numbered)
        if self.later is None:
            return
        for name in compared.histories:
            yield self._missing(name, self.later, grows=True)
            if self._has_vocabulary(name):
                yield self._new_ids(name)
            before, now = self._profile(self.later, name), self._profile(self.now, name)
            yield DriftFigure("psi", name, 0.0, now.lengths.stability(before.lengths), None, "off")

    def _profile(self, rows: EncodedRows, name: str) -> FeatureProfile:
        return rows.profile(self.encoders, name, self.own)

    def _has_vocabulary(self, name: str) -> bool:
        """Whether a value may be unknown to it."""
        schema = self.encoders.schema
        encoder = self.encoders.fitted.get(schema.table_of(name))
        return isinstance(encoder, Vocabulary) and schema.features[name].storage in ("id", "list")

    def _enough(self, share: float) -> bool:
        return share * len(self.now) >= self.settings.min_count

    def _judge_distribution(
        self,
        kind: Literal["new_ids", "psi"],
        name: str,
        shares: tuple[float | None, float | None],
        excess: float,
        said: str,
    ) -> DriftFigure:
        """Judge what may move on with time; rows are of the same hours if the feature is of the context."""
        said = f"{said}; if it moves on with time, name it in drift.unjudged"
        comparable = self.same_hours or self.encoders.schema.side(name) != "context"
        most: float | None = None if name in self.settings.unjudged else getattr(self.settings, kind)
        return DriftFigure.judged(kind, name, shares, most, excess, self._enough(1.0) and comparable, said)

    def _missing(self, name: str, rows: EncodedRows, grows: bool = False) -> DriftFigure:
        """Judge the share without a value; of what grows with the log it may fall."""
        before, now = self._profile(rows, name), self._profile(self.now, name)
        rates = before.missing, now.missing
        was, rate = rates[0] or 0.0, rates[1] or 0.0
        excess = (rate - was if grows else abs(rate - was)) - now.chance(before, was, rate)
        if grows:
            enough = self._enough(max(rate, 1 - was))
            said = (
                "empty for more candidates than of the run's validation; look for user ids that are written in another "
                "way, and for events that are missing"
            )
        else:
            # a feature that is mostly missing may go altogether without the share changing much
            if rate == 1 and self._enough(1 - was):
                excess = math.inf
            enough = self._enough(max(was, rate, 1 - rate))
            said = (
                "missing in another share of the candidates; look at its column, or what it is made of, and at how its "
                "table is joined"
            )
        return DriftFigure.judged("missing", name, rates, self.settings.missing, excess, enough, said)

    def _new_ids(self, name: str) -> DriftFigure:
        now = self._profile(self.now, name)
        before = None if self.later is None else self._profile(self.later, name)
        rates = None if before is None else before.unknown, now.unknown
        was, rate = rates[0] or 0.0, rates[1] or 0.0
        chance = 0.0 if before is None else now.chance(before, was, rate)
        said = (
            "more values that the run does not know than just after its training; look for ids that are written in "
            "another way, or train on more days"
        )
        return self._judge_distribution("new_ids", name, rates, rate - was - chance, said)

    def _stability(self, name: str) -> DriftFigure:
        """Judge the PSI against the run's rows, or against those of its last day if they are nearer.

        A column that counts events grows from day to day: it is nearer to the last day than to all days before.
        """
        before, now = self._profile(self.before, name), self._profile(self.now, name)
        # by the chance of all, so that few rows are not near by chance
        last_day = replace(self._profile(self.before.last_day, name), units=before.units)
        value = min(now.stability(before), now.stability(last_day))
        said = "distributed otherwise than in training; look for another unit or meaning of its column"
        return self._judge_distribution("psi", name, (0.0, value), value, said)


Pack = Callable[[], PackedDataset]
"""Packs new rows with the encoders of a run."""


def measure_drift(config: Config, base: Path, run: Run, pack: Pack | None = None) -> DriftReport:
    """Compare the new rows of a config's tables with what a run was trained on.

    New are the rows of the split `train` from the end of the run's training on. They are packed as `pack --from` does,
    and compared by the run's vocabularies. Features that cannot be compared are figures that say why
    (`ComparedFeatures`).

    Args:
        config: the config that would be packed.
        base: the folder that its relative paths begin in.
        run: a finished run, whose packed data are still there.
        pack: packs the new rows where they stay, in splits of any names; by default they are packed into a temporary
            folder.

    Raises ConfigError if the split has no new rows or is not by time, DataError if a file
    cannot be read, CheckpointError.
    """
    return compare_rows(config, base, open_packed_of(run), str(run.folder), pack)


def compare_rows(
    config: Config, base: Path, packed: PackedDataset, run: str, pack: Pack | None = None
) -> DriftReport:
    """Compare the new rows of a config's tables with packed data, as `measure_drift`; `run` names these."""
    begin = _begin(config, packed, run)
    compared = ComparedFeatures.of(packed.schema, config.declared)
    columns = compare_columns(config, base, packed, compared.single)
    if any(figure.verdict == "broken" for figure in columns):
        return DriftReport(config.name, run, begin, None, columns)
    tables, sources = open_log(config, base)
    unfit = list(check_new_values(config, tables["log"], sources, begin))
    if unfit:
        return DriftReport(config.name, run, begin, None, [*columns, *unfit])
    new, end = count_new_rows(config, tables["log"], begin)
    training = sample_requests(packed.splits["train"])
    before = count_splits(SplitRows.of_packed(packed, {"train": training}))["train"]
    figures = [*columns, *judge_counts(config, packed, before, new, begin, end)]
    if new.requests:
        with ExitStack() as stack:
            try:
                added = _pack_aside(config, base, packed, stack) if pack is None else pack()
            except DiskError:
                raise
            except DataError as error:  # of a table of items or users, or of a vector
                return DriftReport(config.name, run, begin, None, [*figures, unfit_values(str(error))])
            names = [*compared.single, *compared.histories]
            rows = encode_requests(packed, training, compared.single)
            now = encode_period(added, begin, end, names, packed.encoders)
            later = None
            if "valid" in packed.splits:
                later = encode_requests(packed, sample_requests(packed.splits["valid"]), names)
            shared, own = now.share_hours(rows), {config.data.item, config.data.user}
            now, rows = shared or (now, rows)
            judged = FeatureJudgement(
                config.drift, packed.encoders, own, rows, later, now, shared is not None
            )
            figures += judged.figures(compared)
    for name, reason in compared.left_out.items():
        figures.append(DriftFigure("psi", name, None, f"not compared: {reason}", None, "off"))
    return DriftReport(config.name, run, begin, end, figures)


def _pack_aside(config: Config, base: Path, packed: PackedDataset, stack: ExitStack) -> PackedDataset:
    """Pack what is later than packed data into a folder that lasts as long as the stack. Raises DataError.

    Without the truth, which no figure compares.
    """
    folder, engine = stack.enter_context(TemporaryDirectory()), stack.enter_context(open_engine())
    earlier = EarlierPack.of(packed)
    return pack_log(
        config.data.model_copy(update={"truth": None}),
        config.declared,
        base,
        Path(folder) / "packed",
        engine=engine,
        earlier=earlier,
    )


def _begin(config: Config, packed: PackedDataset, run: str) -> int:
    """When the new rows begin, ms UTC. Raises ConfigError unless the config trains on later rows than the run."""
    begin, end = packed.data.training_end(), config.data.training_end()
    if begin == FOREVER:
        raise ConfigError(
            f"{run}: its data.split is not by time, or its training has no end, so that no row is new; split by days "
            "or ranges"
        )
    if end <= begin:
        raise ConfigError(
            f"data.split: training ends at {format_time(end)}, and that of {run} ended at {format_time(begin)}, so "
            "that no row is new; let `train` end later"
        )
    return max(begin, config.data.training_begin())
