"""How vocabularies would grow and shrink if a packing went on: their values counted, and nothing packed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from corank.data.pack_manifest import GrownRows
from corank.data.packing.fit_encoders import fit_encoders, fit_terms
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import open_workspace
from corank.data.state.earlier_pack import EarlierPack
from corank.data.state.grown_rows import find_grown
from corank.data.state.input_files import survey_files
from corank.data.state.pack_start import PackStart
from corank.engine.base import Engine
from corank.features.encoders import Encoders
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema


@dataclass(frozen=True)
class ForecastRows:
    """The rows of a feature's vocabulary, now and after `pack --from`; those of unknown and missing not counted."""

    rows: int
    """Values that the earlier packing knows."""
    grown: GrownRows

    @property
    def after(self) -> int:
        """Values that the next packing would know."""
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


def forecast_rows(
    data: DataSettings, schema: Schema, base: Path, earlier: EarlierPack, engine: Engine
) -> Mapping[str, ForecastRows]:
    """Count what `pack --from` would admit and evict, by feature of a column whose vocabulary goes on.

    The new rows are counted by the code that packs them. Pairs and crosses, whose values are known only when rows are
    packed, are left out.

    Args:
        data: the settings of the tables.
        schema: the features.
        base: the folder that the tables' paths are relative to.
        earlier: the packed data to go on from.
        engine: runs the tasks.

    Raises DataError, ConfigError, as packing would.
    """
    start = PackStart.after(earlier, data, schema)
    with (
        TemporaryDirectory() as folder,
        open_workspace(Path(folder) / "packed", "", (), engine, lambda line: None) as workspace,
    ):
        _, files = survey_files(workspace, data, base, start)
        inputs = PackSources.open(data, schema, base, engine, start=replace(start, files=files))
        terms = fit_terms(start, schema, inputs.until)
        fitted = fit_encoders(
            schema,
            inputs.data,
            {name: source for name, source in inputs.sources.items() if name in terms.earlier},
            {"log": inputs.log, "items": inputs.items, "users": inputs.users},
            inputs.events,
            start.since,
            workspace.spill / "fit",
            engine,
            terms,
        )
        found = find_grown(earlier, Encoders(schema, fitted.encoders))
        return {name: ForecastRows(len(terms.earlier[name].known), grown) for name, grown in found.items()}
