"""New rows of a config's tables compared with what a run was trained on, before anything is trained.

The log is counted as it is; features are compared as they are packed, by `pack --from` into a temporary folder.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from corank.core.errors import ConfigError, DataError, DiskError
from corank.core.time import FOREVER, format_time
from corank.data.column_sources import find_sources
from corank.data.dataset import PackedDataset
from corank.data.histories.event_tables import open_events
from corank.data.pack_manifest import GrownRows
from corank.data.packing.pack import pack_log
from corank.data.state.earlier_pack import EarlierPack
from corank.engine.base import open_engine
from corank.features.encoding import FIRST_KNOWN
from corank.training.config import Config
from corank.training.profile.log_profile import open_tables
from corank.training.run import Run
from corank.training.validation.columns import ColumnComparison
from corank.training.validation.compared_features import ComparedFeatures
from corank.training.validation.encoded_rows import EncodedRows, FeatureComparison
from corank.training.validation.figure import ValidationFigure
from corank.training.validation.figures import FeatureJudgement, RowJudgement
from corank.training.validation.new_rows import NewRows
from corank.training.validation.packed_rows import ReferenceRows, encode_period, open_packed_of
from corank.training.validation.values import check_new_values, unfit_values


@dataclass(frozen=True)
class VocabularyRows:
    """The rows of a feature's vocabulary, now and after `pack --from`; those of unknown and missing not counted."""

    rows: int
    """Values that the run knows."""
    grown: GrownRows

    @property
    def after(self) -> int:
        """Values that the next packing knows."""
        return self.rows + self.grown.admitted - self.grown.evicted

    def document(self) -> dict[str, int | None]:
        """As plain values: rows, admitted, evicted, after, free."""
        grown = self.grown
        return {
            "rows": self.rows,
            "admitted": grown.admitted,
            "evicted": grown.evicted,
            "after": self.after,
            "free": grown.free,
        }


@dataclass(frozen=True, repr=False)
class Validation:
    """The figures of new rows with those of a run, each with a threshold and a verdict."""

    name: str
    """Of the config."""
    run: str
    """The folder of the run that they are compared with."""
    begin: int
    """When the new rows begin, ms UTC: no earlier than the run's training ended."""
    end: int | None
    """When the new rows end; None if columns differ, or values cannot be packed."""
    figures: Sequence[ValidationFigure]
    vocabularies: Mapping[str, VocabularyRows] = field(default_factory=dict)
    """Rows that `pack --from` admits and evicts, by feature with a vocabulary that continues; none of refused rows."""

    @property
    def broken(self) -> list[ValidationFigure]:
        """The figures whose thresholds are broken."""
        return [figure for figure in self.figures if figure.verdict == "broken"]

    @property
    def reasons(self) -> list[str]:
        """Why the rows are refused, a line each: what differs, what to do, the threshold; none if accepted."""
        return [
            f"{f.kind}: {f.reason}"
            + ("" if f.threshold is None else f" (validation.{f.kind}: {f.threshold:g})")
            for f in self.broken
        ]

    @property
    def accepted(self) -> bool:
        """Whether no threshold is broken."""
        return not self.broken

    @property
    def drift(self) -> dict[str, float]:
        """The PSI of each feature that is compared; of histories that of their lengths."""
        return {f.name: f.now for f in self.figures if f.kind == "psi" and isinstance(f.now, float)}

    def document(self) -> dict[str, Any]:
        """The validation as plain values."""
        return {
            "name": self.name,
            "run": self.run,
            "begin": format_time(self.begin),
            "end": None if self.end is None else format_time(self.end),
            "accepted": self.accepted,
            "reasons": self.reasons,
            "figures": [figure.document() for figure in self.figures],
            "vocabularies": {name: rows.document() for name, rows in self.vocabularies.items()},
        }

    def to_json(self) -> str:
        """The validation as JSON text, as `corank check --against --json` prints it."""
        return json.dumps(self.document(), indent=1, allow_nan=False)


Pack = Callable[[], PackedDataset]
"""Packs new rows with the encoders of a run."""


def validate_against(config: Config, base: Path, run: Run, pack: Pack | None = None) -> Validation:
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
) -> Validation:
    """Compare the new rows of a config's tables with packed data, as `validate_against`; `run` names these."""
    begin = _begin(config, packed, run)
    compared = ComparedFeatures.of(packed.schema, config.declared)
    columns = ColumnComparison(config, base, packed, list(compared.columns)).figures()
    if any(figure.verdict == "broken" for figure in columns):
        return Validation(config.name, run, begin, None, columns)
    tables, data = open_tables(config, base), config.data
    items, users = tables.get("items"), tables.get("users")
    events = open_events(data, base)
    sources = find_sources(config.declared, data, tables["log"], items, users, events)
    unfit = list(check_new_values(config, tables["log"], sources, begin))
    if unfit:
        return Validation(config.name, run, begin, None, [*columns, *unfit])
    new = NewRows.read(config, tables["log"], begin)
    reference, vocabularies = ReferenceRows(packed), dict[str, VocabularyRows]()
    figures = [*columns, *RowJudgement(config.validation, reference, new).figures()]
    if len(new):
        with ExitStack() as stack:
            try:
                added = _pack_aside(config, base, packed, stack) if pack is None else pack()
            except DiskError:
                raise
            except DataError as error:  # of a table of items or users, or of a vector
                return Validation(config.name, run, begin, None, [*figures, unfit_values(str(error))])
            names = [*compared.columns, *compared.derived]
            before = reference.encoded("train", names)
            assert before is not None
            now = encode_period(added, begin, new.end, [*names, *compared.histories], packed.encoders)
            figures += _compare_features(config, reference, before, now, compared)
            fitted = packed.encoders.fitted
            vocabularies = {
                name: VocabularyRows(fitted[name].size - FIRST_KNOWN, grown)
                for name, grown in added.manifest.grown.items()
            }
    for name, reason in compared.left_out.items():
        figures.append(ValidationFigure("psi", name, None, f"not compared: {reason}", None, "off"))
    accepted = all(figure.verdict != "broken" for figure in figures)
    return Validation(config.name, run, begin, new.end, figures, vocabularies if accepted else {})


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


def _compare_features(
    config: Config,
    reference: ReferenceRows,
    before: EncodedRows,
    now: EncodedRows,
    compared: ComparedFeatures,
) -> list[ValidationFigure]:
    packed, names = reference.packed, [*compared.columns, *compared.derived]
    # of a day that was packed without its last hours, the same hours are compared
    same_hours = now.shares_hours(before)
    if same_hours:
        before, now = before.in_hours_of(now), now.in_hours_of(before)
    own = {config.data.item, config.data.user}
    comparisons = [
        FeatureComparison(name, packed.encoders, before, now, packed.schema.column(name) in own)
        for name in names
    ]
    later = reference.encoded("valid", [*names, *compared.histories])
    histories = [
        FeatureComparison(name, packed.encoders, later, now, False)
        for name in compared.histories
        if later is not None
    ]
    judgement = FeatureJudgement(config.validation, comparisons, histories, later, packed.schema, same_hours)
    return list(judgement.figures())


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
