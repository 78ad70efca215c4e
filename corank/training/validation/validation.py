"""New rows of a config's tables compared with what a run was trained on, before anything is packed or trained."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corank.core.errors import ConfigError, DataError
from corank.core.time import FOREVER, format_time
from corank.data.column_sources import find_sources
from corank.data.dataset import PackedDataset
from corank.data.histories.event_tables import open_events
from corank.data.state.earlier_pack import EarlierPack
from corank.data.state.forecast import ForecastRows, forecast_rows
from corank.engine.base import open_engine
from corank.training.config import Config
from corank.training.profile.log_profile import open_tables
from corank.training.run import Run
from corank.training.validation.columns import ColumnComparison
from corank.training.validation.compared_features import ComparedFeatures
from corank.training.validation.encoded_rows import EncodedRows, FeatureComparison
from corank.training.validation.figure import ValidationFigure
from corank.training.validation.figures import FeatureJudgement, RowJudgement
from corank.training.validation.new_rows import NewRows
from corank.training.validation.reference import ReferenceRows, open_packed_of
from corank.training.validation.values import check_new_values, unfit_values


@dataclass(frozen=True, repr=False)
class Validation:
    """The figures of new rows beside those of a run, each with a threshold and a verdict."""

    name: str
    """Of the config."""
    run: str
    """What they are compared with: the run's folder."""
    begin: int
    """When the new rows begin, ms UTC: no earlier than the run's training ended."""
    end: int | None
    """When the new rows end; None if columns differ, or values cannot be packed."""
    figures: Sequence[ValidationFigure]
    vocabularies: Mapping[str, ForecastRows] = field(default_factory=dict)
    """Rows that `pack --from` would admit and evict, by feature with a vocabulary; none if it was not asked for."""

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
        """All of it as plain values."""
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
        """All of it as JSON text, as `corank check --against --json` prints it."""
        return json.dumps(self.document(), indent=1, allow_nan=False)


def validate_against(config: Config, base: Path, run: Run) -> Validation:
    """Compare the new rows of a config's tables with what a run was trained on.

    New are the rows of the split `train` from the end of the run's training on; of others nothing is read but the
    columns of their files. Values are encoded by the run's encoders. Features that cannot be compared are figures that
    say why (`ComparedFeatures`).

    Args:
        config: the config that would be packed.
        base: the folder that its relative paths begin in.
        run: a finished run, whose packed data are still there.

    Raises ConfigError if the split has no new rows or is not by time, DataError if a file
    cannot be read, CheckpointError.
    """
    return compare_rows(config, base, open_packed_of(run), str(run.folder))


def add_vocabularies(found: Validation, config: Config, base: Path, run: Run) -> Validation:
    """Add how vocabularies would grow, to what `validate_against` found.

    They are counted of rows that are accepted alone: others may not be packed.

    Raises as `validate_against`.
    """
    if not found.accepted:
        return found
    with open_engine() as engine:
        earlier = EarlierPack.of(open_packed_of(run))
        rows = forecast_rows(config.data, config.declared, base, earlier, engine)
    return replace(found, vocabularies=rows)


def compare_rows(config: Config, base: Path, packed: PackedDataset, run: str) -> Validation:
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
    needed = compared.column_features(packed.schema)
    new = NewRows.read(config, tables, {name: sources[name] for name in needed}, begin)
    reference = ReferenceRows(packed)
    figures = [*columns, *RowJudgement(config.validation, reference, new).figures()]
    if len(new):
        names = [*compared.columns, *compared.derived]
        before = reference.encoded("train", names)
        assert before is not None
        try:
            now = new.encode(packed, compared, events)
        except DataError as error:  # of a table of items or users, or of a vector
            return Validation(config.name, run, begin, None, [*columns, unfit_values(str(error))])
        figures += _compare_features(config, reference, before, now, compared)
    for name, reason in compared.left_out.items():
        figures.append(ValidationFigure("psi", name, None, f"not compared: {reason}", None, "off"))
    return Validation(config.name, run, begin, new.end, figures)


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
