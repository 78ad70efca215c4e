"""Sizes after a period of `corank daily`: rows of tables, the bundle, the packed state, the store."""

from contextlib import closing
from pathlib import Path

from corank.bundle.bundle import Bundle
from corank.bundle.content import read_items, read_snapshots
from corank.data.packing.state import STATE
from corank.features.encoders import Encoders
from corank.features.input_layout import Layout
from corank.training.run import Run
from corank_continual.periods.history import PeriodRecord
from corank_serve.store.base import Store, open_store

Sizes = dict[str, int]


def measure_period(settings: Path, record: PeriodRecord) -> Sizes:
    """Measure what a period left that went live: `rows.FEATURE` of each table, and totals.

    Args:
        settings: those of the daily funnel.
        record: of the period, the newest.
    """
    folder = settings.parent / "daily" / "periods" / record.period
    packed = Run.open(folder / "run").packed()
    layout = Layout(packed.schema, packed.encoders.sizes)
    bundle = Bundle.open(folder / "bundle")
    encoders = Encoders.load(bundle.folder / "encoders", bundle.manifest.declared)
    priors = read_snapshots(bundle.folder, bundle.manifest)
    sizes = {f"rows.{name}": layout.sizes[name] for name in layout.offset}
    sizes |= {
        "rows": sum(layout.table_rows.values()),
        "state_bytes": bytes_of(packed.folder / STATE),
        "packed_bytes": bytes_of(packed.folder),
        "run_bytes": bytes_of(folder / "run"),
        "bundle_bytes": bytes_of(bundle.folder),
        "item_records": len(read_items(bundle.folder, bundle.manifest, encoders).records.ids),
        "prior_keys": sum(len(counts.keys) for counts in priors.rates.values()),
        "disk_bytes": bytes_of(settings.parent / "daily"),
    }
    with closing(open_store(f"lmdb:{settings.parent / 'store'}")) as store:
        return sizes | _measure_store(store, str(record.version), settings.parent / "store")


def _measure_store(store: Store, live: str, folder: Path) -> Sizes:
    """Keys and bytes of the live version and of all tables, and how many versions there are."""
    keys, sizes = 0, {}
    for table in store.tables():
        pairs = [pair for batch in store.scan(table) for pair in batch]
        keys += len(pairs)
        sizes[table] = len(pairs), sum(len(key) + len(value) for key, value in pairs)
    of_live = [size for table, size in sizes.items() if table.endswith(f"/{live}")]
    return {
        "store_keys": keys,
        "store_bytes": sum(size for _, size in sizes.values()),
        "store_file_bytes": bytes_of(folder),
        "store_versions": sum(table.startswith("parts/") for table in sizes),
        "live_keys": sum(count for count, _ in of_live),
        "live_bytes": sum(size for _, size in of_live),
        "live_changed": sizes.get(f"changed/{live}", (0, 0))[0],
    }


def bytes_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def growth(values: list[int], at: int) -> float:
    """The largest value after `at` over the one there; 0 of 0 is no growth."""
    largest, base = max(values[at + 1 :]), values[at]
    return largest / base if base else 1.0 + largest
