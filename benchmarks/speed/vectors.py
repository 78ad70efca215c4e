"""Items a second when a bundle's records and vectors are made from a table; reference: the item tower alone.

`items_per_second` is for a bundle's catalogue without reading its Parquet, which is timed separately. The floor is the
tower's graph in the same session on dense inputs in memory. Both take turns, batch by batch. `publish_seconds` is the
time to write the same items into a store and to verify them.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

import corank
from benchmarks import harness
from benchmarks.million import ITEMS, Million, million
from corank.bundle.bundle import Bundle
from corank.bundle.catalogue_vectors import BATCH, CatalogueEncoder
from corank.bundle.item_layers import ItemLayer
from corank.data.tables import Table, cut_table
from corank.features.input_layout import dense_input

AIMS = {"times_floor": ("<=", 2.0)}


def pass_over(made: Million) -> tuple[float, float, float]:
    """Seconds of encoding the catalogue, of reading it, and of the floor."""
    encoder, table = (
        CatalogueEncoder.of(Bundle.open(made.bundle)),
        Table.scan("items", str(made.items), Path()),
    )
    columns = [pl.col(name) for name in encoder.manifest.request_columns.item]
    encode = read = floor = 0.0
    for task in cut_table(table, BATCH):
        began = time.perf_counter()
        (frame,) = task.read(table, [table.key(encoder.manifest.item), *columns])
        read += time.perf_counter() - began
        began = time.perf_counter()
        layer = encoder.encode(frame)
        encode += time.perf_counter() - began
        floor += forward(encoder, layer)
    return encode, read, floor


def forward(encoder: CatalogueEncoder, layer: ItemLayer) -> float:
    """Seconds of the item towers alone."""
    graphs, seconds = encoder.graphs, 0.0
    for stage in encoder.manifest.vector_stages:
        graph = graphs._graphs[stage.name]
        inputs = dense_input(layer.records.rows, graphs._layout, "item", graphs._tables[stage.tables])
        began = time.perf_counter()
        graph.run(None, {"item": inputs})
        seconds += time.perf_counter() - began
    return seconds


def published(made: Million) -> float:
    """Seconds of publishing into an empty LMDB store."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        corank.publish(made.bundle, f"lmdb:{folder}/store")
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the bundle of a million items is kept")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with million(options.folder) as made:
        passes = np.array([pass_over(made) for _ in range(1 + options.rounds)])[1:]  # the first warms up
        ours, read, floor = np.median(passes, axis=0).tolist()
        figures = {
            "items_per_second": ITEMS / ours,
            "floor_items_per_second": ITEMS / floor,
            "times_floor": float(np.median(passes[:, 0] / passes[:, 2])),
            "read_seconds": read,
            "publish_seconds": published(made),
        }
    harness.report("vectors", figures, AIMS, options.json)


if __name__ == "__main__":
    main()
