"""Retrieval in a bundle: its index, the recall of the index, and candidates for a request that brings none.

    retrieval/facts.json        the stage, the number of candidates, what the index was tuned to
    retrieval/queries.npy       query vectors of logged requests, by which recall is measured
    retrieval/index.faiss       the index, unless every search is exact

Letters: N items of the bundle · S newer ones · d last width of the towers · Q queries.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from corank.bundle.graph_files import open_session
from corank.bundle.item_layers import ItemLayer, LayeredItems
from corank.bundle.stage_facts import VECTOR
from corank.core.arrays import read_array, write_array
from corank.core.errors import BundleError, ConfigError
from corank.core.files import parse_json, read_regular_file
from corank.core.settings import Settings, validate
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats, Longs, Mask
from corank.core.vector_search import (
    AllowedRows,
    IndexTuning,
    RetrievalSettings,
    Retriever,
    build,
    read_index,
    time_searches,
    tune_effort,
    write_index,
)
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_history_items, read_query_rows
from corank.features.history_events import HistoryNeeds
from corank.features.input_layout import Layout, TableSet, dense_input
from corank.features.operands import Operands
from corank.features.schema import Schema

FACTS, QUERIES, INDEX = "retrieval/facts.json", "retrieval/queries.npy", "retrieval/index.faiss"
MOST_BYTES = 1 << 20
"""Bytes of the facts, at most."""
MANY = 256
"""Queries by which recall is measured."""
FILTERS, FILTER_BYTES = 256, 128 << 20
"""Filters whose items are cached, a byte an item: how many, and how much memory they may take."""

Where = tuple[tuple[str, tuple[int, ...]], ...]
"""Filters of a request: for each feature the hashes of the values that may pass, both ascending."""


class RetrievalFacts(Settings):
    """The facts of a bundle that retrieves."""

    settings: RetrievalSettings
    recall: IndexTuning
    microseconds: float
    """Median of a search, on the machine that wrote the bundle."""
    exact_microseconds: float
    """Median of an exact search, to compare."""

    def __str__(self) -> str:
        recall, wanted = self.recall, self.settings.recall
        short = "" if recall.recall >= wanted else f", short of the wanted {wanted:g}"
        return (
            f"retrieval: {recall.index}, recall@{recall.k} {recall.recall:.4f}{short}; a search takes "
            f"{self.microseconds:.0f} µs, an exact one {self.exact_microseconds:.0f}"
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the facts of a bundle's content; None for one that does not retrieve. Raises BundleError."""
        path = folder / FACTS
        try:
            return validate(cls, parse_json(read_regular_file(folder, FACTS, MOST_BYTES)), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ConfigError) as error:
            raise BundleError(f"{path}: cannot be read ({error}); export the bundle again") from None


def sample_queries(packed: PackedDataset, layout: Layout, tables: TableSet, graph: Path) -> Floats:
    """Compute query vectors of some logged requests, those of validation if there are any: (Q, d).

    Args:
        packed: the requests.
        layout: of dense inputs.
        tables: those of the query tower.
        graph: the query tower.

    Raises:
        BundleError: there are no requests.
    """
    shards = (shard for split in ("valid", "train", "test") for shard in packed.splits.get(split, ()))
    shard = next((shard for shard in shards if len(shard)), None)
    if shard is None:
        raise BundleError("retrieval is tuned by logged requests, and there are none")
    session = open_session(graph, {"query": (None, layout.width("query"))})
    chosen = np.sort(np.random.default_rng(0).permutation(len(shard))[:MANY])
    histories = read_history_items(packed, shard, chosen, HistoryNeeds.of(packed.schema).for_rows)
    inputs = dense_input(read_query_rows(packed, shard, chosen, histories), layout, "query", tables)
    vectors: Floats = session.run(None, {"query": inputs})[0]
    return vectors


def write_retrieval(
    folder: Path, settings: RetrievalSettings, vectors: StoredMatrix, queries: Floats
) -> None:
    """Build and tune an index, and write the parts of a bundle's content.

    Args:
        folder: the content.
        settings: of retrieval.
        vectors: item vectors, as they are stored: (N, d).
        queries: (Q, d).

    Raises:
        BundleError: the index cannot be written.
    """
    (folder / "retrieval").mkdir(exist_ok=True)
    write_array(folder / QUERIES, queries)
    index = build(vectors, settings, 0)
    recall = tune_effort(index, vectors, queries, settings)
    if index is not None:
        write_index(index, folder / INDEX)
    indexed, exact = time_searches(Retriever(vectors, index, recall), queries)
    facts = RetrievalFacts(settings=settings, recall=recall, microseconds=indexed, exact_microseconds=exact)
    (folder / FACTS).write_bytes(facts.model_dump_json(indent=1).encode())


def read_queries(folder: Path) -> tuple[str, Floats] | None:
    """Read the query vectors of logged requests, (Q, d), from a bundle's content, and the stage they are of.

    Returns None if the bundle does not retrieve. Raises BundleError, DataError.
    """
    facts = RetrievalFacts.read(folder)
    if facts is None:
        return None
    return facts.settings.stage, read_array(folder / QUERIES, np.float32, (None, None))


def refresh_retrieval(before: Path, folder: Path, parts: Mapping[str, StoredMatrix]) -> None:
    """Write the same retrieval over newer item parts, if the bundle retrieves. Raises BundleError, DataError."""
    facts = RetrievalFacts.read(before)
    if facts is not None:
        vectors = parts[f"{facts.settings.stage}.{VECTOR}"]
        queries = read_array(before / QUERIES, np.float32, (None, vectors.shape[1]))
        write_retrieval(folder, facts.settings, vectors, queries)


class Retrieval:
    """Finds candidates of one model version, among the items at one change."""

    def __init__(self, retriever: Retriever, settings: RetrievalSettings, items: LayeredItems) -> None:
        self._retriever, self.settings = retriever, settings
        base, *newer = items.layers
        assert len(newer) < 2
        self._newer: ItemLayer | None = newer[0] if newer else None
        stale: Longs = items.removed
        newer_operands = None
        if self._newer is not None:
            newer_operands = self._newer.records.operands
            position = base.records.ids.find(self._newer.records.ids.values)
            stale = np.union1d(stale, position[position >= 0])
        cached = max(1, min(FILTERS, FILTER_BYTES // max(1, int(items.bounds[-1]))))
        self._older = lru_cache(maxsize=cached)(partial(_allowed, base.records.operands, stale))
        self._among = lru_cache(maxsize=cached)(partial(_allowed, newer_operands, stale[:0]))

    @classmethod
    def open(cls, folder: Path, items: LayeredItems) -> Self | None:
        """Open the retrieval of a bundle's content; None if it does not retrieve. Raises BundleError, DataError."""
        facts = RetrievalFacts.read(folder)
        if facts is None:
            return None
        stage = facts.settings.stage
        if f"{stage}.{VECTOR}" not in items.layers[0].parts:
            raise BundleError(f"{folder / FACTS}: stage '{stage}' has no item vectors; export it again")
        vectors = items.layers[0].parts[f"{stage}.{VECTOR}"]
        index = None if facts.recall.index == "flat" else read_index(folder / INDEX)
        return cls(Retriever(vectors, index, facts.recall), facts.settings, items)

    def with_items(self, items: LayeredItems) -> Self:
        """Search other newer items on top of the same bundle."""
        return type(self)(self._retriever, self.settings, items)

    def search(self, query: Floats, k: int, where: Where) -> Longs:
        """Find the k items with the largest dot product with a query (d,) that pass the filters.

        Returns:
            Their positions in `LayeredItems`, best first; fewer than k if fewer pass.
        """
        side = None if self._newer is None else self._newer.parts[f"{self.settings.stage}.{VECTOR}"]
        return self._retriever.search(query, k, self._older(where), side, self._among(where))[0]


def _allowed(operands: Operands | None, stale: Longs, where: Where) -> AllowedRows | None:
    """Find the items that pass the filters and that newer ones do not replace; None for all."""
    if operands is None or (not len(stale) and not where):
        return None
    mask = mask_items(operands, where)
    mask[stale] = False
    return AllowedRows(mask)


def mask_items(operands: Operands, where: Where) -> Mask:
    """Mark the items that have one of the wanted values of every filtered feature: (N,).

    By a hash table, which takes as long for a thousand values as for one; NumPy sorts all items.
    """
    mask = np.ones(operands.count, dtype=bool)
    for name, values in where:
        wanted = pl.Series(values, dtype=pl.UInt64).implode()
        if name in operands.keys:
            mask &= pl.Series(operands.keys[name]).is_in(wanted).to_numpy()
        else:
            lists = operands.lists[name]
            hits: Longs = lists.row_of()[pl.Series(lists.flat()).is_in(wanted).to_numpy()]
            some = np.zeros(operands.count, dtype=bool)
            some[hits] = True
            mask &= some
    return mask


def filter_columns(schema: Schema) -> dict[str, str]:
    """Map the columns that a request may filter by to their features."""
    return {schema.column(name): name for name in schema.filters()}
