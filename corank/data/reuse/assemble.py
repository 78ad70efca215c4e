"""Packed data assembled of features that are packed already.

Each file is the one that packing would write. What holds no feature, and files whose features are the same, are links
to the donors' files; the rest is copied, column by column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corank.core.arrays import append_array, read_array, read_frame
from corank.core.storage.hard_links import link_file
from corank.data.dataset import prior_folder
from corank.data.pack_manifest import PackManifest
from corank.data.packing.pack import write_manifest
from corank.data.reuse.column_digests import TableContent
from corank.data.reuse.donor import OPERAND_FILES, FeatureSelection, Taken
from corank.data.reuse.inputs import FEATURES, InputContent, name_columns
from corank.data.served.unusable_rows import SERVED_ID
from corank.data.state.known_events import EVENTS, events_file
from corank.data.state.value_counts import COUNTS, STATE, counts_file
from corank.engine.base import Engine
from corank.features.encoders import Encoders
from corank.features.operands import OperandNames
from corank.features.schema import PLACEMENTS, Placement, Schema

ROWS = 2**18
"""Rows that are copied at a time."""
_OF_FEATURES = ("encoders", "events", "priors")


def is_of_features(name: str, splits: Sequence[str]) -> bool:
    """Whether a file of packed data, by its path within them, holds features."""
    first, *parts = name.split("/")
    if first == "items":
        return parts[0] == "operands" or parts[0].startswith(("ids.", "numbers.", "list", "vector"))
    if first == STATE:
        return parts[0] in (COUNTS, EVENTS)
    return first in _OF_FEATURES or (first in splits and parts[1] in PLACEMENTS)


def _link_numbered(source: Path, begin: str, number: int, target: Path, new: int) -> None:
    """Link the files `<begin><number>.…` of a folder, with another number."""
    for path in sorted(source.glob(f"{begin}{number}.*")):
        link_file(path, target / path.name.replace(f"{begin}{number}.", f"{begin}{new}.", 1))


def assemble_pack(
    selection: FeatureSelection, fingerprint: str, versions: dict[str, str], folder: Path, engine: Engine
) -> None:
    """Write packed data of features that donors have, all of which are of the same log.

    Args:
        selection: the features, none of which is missing.
        fingerprint: of the packed data.
        versions: of the input files, hashed, by table.
        folder: receives the files.
        engine: copies the columns of shards.
    """
    schema, base = selection.schema, selection.donors[0]
    for name in base.manifest.files:
        if not is_of_features(name, list(base.manifest.splits)):
            link_file(base.folder / name, folder / name)
    _load_encoders(selection).save(folder / "encoders")
    (folder / "events").mkdir(exist_ok=True)
    for name, history in schema.histories().items():
        taken = selection.take(name)
        for path in (taken.donor.folder / "events").glob(f"{history.events}.*"):
            if not (folder / "events" / path.name).exists():
                link_file(path, folder / "events" / path.name)
    for n, name in enumerate(schema.priors()):
        taken = selection.take(name)
        held = prior_folder(taken.donor.folder, list(taken.donor.schema.priors()).index(taken.name))
        for path in held.iterdir():
            link_file(path, prior_folder(folder, n) / path.name)
    _link_state(selection, folder)
    shards = [f"{split}/{shard.name}" for split, held in base.manifest.splits.items() for shard in held]
    engine.run(AssembleRows(selection, folder), ["items", *shards])
    write_manifest(folder, _describe(selection, fingerprint, versions))


def _link_state(selection: FeatureSelection, folder: Path) -> None:
    """Link what later packings need to know of features: counts of values, and events of tables."""
    schema = selection.schema
    for name in schema.features:
        taken = selection.take(name)
        counts = counts_file(taken.donor.folder, taken.donor.schema, taken.name)
        if counts.is_file():
            link_file(counts, counts_file(folder, schema, name))
    data, files = selection.donors[0].manifest.data, dict[Path, list[Path]]()
    for name, history in schema.histories().items():
        if history.table:
            taken = selection.take(name)
            of_donor = taken.donor.schema.histories()[taken.name]
            file = events_file(taken.donor.folder, data, of_donor)
            files.setdefault(events_file(folder, data, history), []).append(file)
    for path, held in files.items():
        # that of the longest history, with the most attributes
        frames = [read_frame(path) for path in held]
        most = max(range(len(held)), key=lambda n: (frames[n].width, len(frames[n])))
        link_file(held[most], path)


def _load_encoders(selection: FeatureSelection) -> Encoders:
    """The encoders of all features."""
    schema = selection.schema
    held = [Encoders.load(donor.folder / "encoders", donor.schema).fitted for donor in selection.donors]
    fitted = {}
    for name in _order(schema):
        taken = selection.take(name)
        encoder = held[selection.donors.index(taken.donor)].get(taken.name)
        if encoder is not None:
            fitted[name] = encoder
    return Encoders(schema, fitted)


def _order(schema: Schema) -> list[str]:
    """The features in the order in which packing takes them: of columns, beside a history, derived."""
    return sorted(schema.features, key=lambda name: (name in schema.derived(), name in schema.parallels()))


def _describe(selection: FeatureSelection, fingerprint: str, versions: dict[str, str]) -> PackManifest:
    schema, base = selection.schema, selection.donors[0].manifest
    sources = {}
    for name in _order(schema):
        taken = selection.take(name)
        if taken.name in taken.donor.manifest.sources:
            sources[name] = taken.donor.manifest.sources[taken.name]
    tables = {name: _join_content(selection, name) for name in versions}
    return base.model_copy(
        update={
            "fingerprint": fingerprint,
            "features": schema.features,
            "sources": sources,
            "inputs": InputContent(versions=versions, tables=tables),
        }
    )


def _join_content(selection: FeatureSelection, table: str) -> TableContent:
    """What the columns of a table hold that the config names, or the files of a feature."""
    features, rows, columns = selection.schema.features, 0, dict[str, str]()
    if table.startswith(FEATURES):
        name = table.removeprefix(FEATURES)
        taken = selection.take(name)
        assert taken.donor.manifest.inputs is not None
        (held,) = taken.donor.manifest.inputs.tables[f"{FEATURES}{taken.name}"].columns.values()
        return TableContent(rows=0, columns={name: held})
    for donor in selection.donors:
        if donor.manifest.inputs is not None:
            rows, found = (
                donor.manifest.inputs.tables[table].rows,
                donor.manifest.inputs.tables[table].columns,
            )
            columns |= found
    named = name_columns(selection.donors[0].manifest.data, features)
    served = SERVED_ID in columns
    return TableContent(rows=rows, columns={c: columns[c] for c in sorted(columns) if served or c in named})


@dataclass(frozen=True)
class AssembleRows:
    """Assembles the rows of items, or of a shard, which is the task: its path within the packed data."""

    selection: FeatureSelection
    folder: Path

    def __call__(self, part: str) -> None:
        """Write the rows of every placement, and the operands."""
        for placement in PLACEMENTS:
            if (placement == "item") == (part == "items"):
                rows = part if placement == "item" else f"{part}/{placement}"
                self._write_rows(placement, rows)
                if placement in ("item", "query"):
                    self._write_operands(placement, f"{rows}/operands")

    def _write_rows(self, placement: Placement, rows: str) -> None:
        placed = self.selection.schema.row_features(placement)
        (self.folder / rows).mkdir(parents=True, exist_ok=True)
        self._write_matrix(placement, rows, "ids", placed.ids)
        self._write_matrix(placement, rows, "numbers", placed.numbers)
        self._link_all(placement, rows, "list", "lists", placed.lists)
        self._link_all(placement, rows, "vector", "vectors", placed.vectors)

    def _link_all(self, placement: Placement, rows: str, begin: str, kind: str, names: Sequence[str]) -> None:
        """Link the files of features that have some of their own."""
        for n, name in enumerate(names):
            taken = self.selection.take(name)
            there = getattr(taken.donor.schema.row_features(placement), kind)
            source = taken.donor.folder / rows
            _link_numbered(source, begin, there.index(taken.name), self.folder / rows, n)

    def _write_matrix(self, placement: Placement, rows: str, matrix: str, names: Sequence[str]) -> None:
        """Write the columns of features that lie in one array; link it if a donor has the same."""
        taken = [self.selection.take(name) for name in names]
        path = self.folder / rows / f"{matrix}.npy"
        for donor in self.selection.donors:
            placed = donor.schema.row_features(placement)
            held = placed.ids if matrix == "ids" else placed.numbers
            same = len(held) == len(taken) and all(
                one.donor is donor and one.name == name for one, name in zip(taken, held, strict=True)
            )
            if same:
                link_file(donor.folder / rows / f"{matrix}.npy", path)
                return
        sources = [_columns(one, placement, rows, matrix) for one in taken]
        first = read_array(self.selection.donors[0].folder / rows / f"{matrix}.npy")
        width = sum(columns.shape[1] for columns in sources)
        with append_array(path, (len(first), width), first.dtype) as append:
            for begin in range(0, len(first), ROWS):
                block = [columns[begin : begin + ROWS] for columns in sources]
                append(np.concatenate(block, axis=1) if block else first[begin : begin + ROWS, :0])

    def _write_operands(self, placement: Placement, rows: str) -> None:
        wanted = OperandNames.of(self.selection.schema, placement)
        if wanted or placement == "item":
            (self.folder / rows).mkdir(parents=True, exist_ok=True)
        for part, begin in OPERAND_FILES.items():
            for n, name in enumerate(getattr(wanted, part)):
                donor, number = self.selection.take_operand(name, placement, part)
                _link_numbered(donor.folder / rows, begin, number, self.folder / rows, n)


def _columns(taken: Taken, placement: Placement, rows: str, matrix: str) -> np.ndarray:
    """Map the columns that a feature has in an array of its donor: (N, width)."""
    placed = taken.donor.schema.row_features(placement)
    array = read_array(taken.donor.folder / rows / f"{matrix}.npy")
    if matrix == "ids":
        at = placed.ids.index(taken.name)
        return array[:, at : at + 1]
    return array[:, placed.numbers_at[taken.name]]
