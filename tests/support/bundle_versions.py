"""Bundles of several models over one table of items, quickly made: what a store's versions are in benchmarks and tests.

Column `worth` of a bundle's items is the bundle's number, by which a record tells what it is of.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

import corank
from corank.bundle.bundle import Bundle
from corank.bundle.content import ItemGraphs, read_tables, save_parts, store_parts
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import ItemsAsOf
from corank.datasets.feed.simulate import simulate_world
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.training.run import Run
from tests.support.cases import write_bundle

NARROW = (
    "stages.0.query=[32, 16]",
    "stages.0.item=[32, 16]",
    "stages.1.hidden=[32, 16]",
    "train.epochs=1",
)
CHANGING = 20


def first(folder: Path, items: int, requests: int = 1500) -> tuple[Path, Run]:
    """A bundle of a simulated world, trained for a moment, and its run."""
    Console(stderr=True).print("a world, a model, its bundle …")
    world = folder / "world"
    simulate_world(world, requests=requests, candidates=40, users=200, items=items)
    table = pl.read_parquet(world / "items.parquet")
    table.with_columns(worth=pl.lit(0.0)).write_parquet(world / "items.parquet")
    config = world / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("\nfeatures:\n", "\n  columns: [worth]\nfeatures:\n"), encoding="utf-8")
    run = corank.train(config, NARROW, folder=folder / "run").run
    corank.export(run.folder, folder / "bundle")
    return folder / "bundle", run


def changing(run: Run) -> list[dict[str, Any]]:
    """Items to upsert: the last items of the table, and as many new ones that are like them."""
    schema, data = run.config.declared, run.config.data
    columns = {schema.column(name) for name in schema.columns("item")} - {data.item} | {"worth"}
    table = pl.read_parquet(run.base / "items.parquet").rename({data.item: "id"}).sort("id")
    rows = table.select("id", *sorted(columns)).tail(CHANGING)
    return pl.concat([rows, rows.with_columns(pl.col("id") + CHANGING)]).to_dicts()


def variant(
    bundle: Path,
    path: Path,
    number: int,
    as_of: int | None = None,
) -> Path:
    """A bundle of a model of its own, `number`: other tables than its neighbours', and vectors accordingly.

    Args:
        as_of: the change of a store at which its items were read; it is not known otherwise.
    """
    before = Bundle.open(bundle)
    changes: dict[str, Any] = {"model_version": f"{number:016x}", "items_seq": 1}
    if as_of is not None:
        changes["items_as_of"] = ItemsAsOf(change=as_of)
    manifest = before.manifest.model_copy(update=changes)
    encoders = Encoders.load(before.folder / "encoders", manifest.declared)
    layout = Layout(manifest.declared, encoders.sizes)

    def fill(folder: Path) -> None:
        shutil.copytree(before.folder, folder, dirs_exist_ok=True)
        for table in (folder / "tables").rglob("*.npy"):
            np.save(table, np.load(table, allow_pickle=False) * np.float32(1 + number % 10 / 10))
        worth = folder / "items" / "column.worth.npy"
        np.save(worth, np.full_like(np.load(worth, allow_pickle=False), number))
        rows = ItemRecords.load(folder / "items", encoders, manifest.item_columns).rows
        tables = read_tables(folder, manifest, layout)
        parts = ItemGraphs(folder, manifest.stages, layout, tables).compute_all(rows)
        save_parts(folder, store_parts(parts, manifest.stages))

    write_bundle(path, manifest, fill)
    return path
