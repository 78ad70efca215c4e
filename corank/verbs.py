"""The verbs of the command line, as functions on paths. Each raises a CorankError for a mistake of the user's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corank.bundle import Bundle
from corank.config import Config, read
from corank.errors import CheckpointError, DataError
from corank.evaluate import evaluate as evaluated
from corank.evaluate import truth_of
from corank.export import export as exported
from corank.funnel import Funnel, Request
from corank.pack import Packed
from corank.pack import pack as packed
from corank.predict import predict
from corank.run import Run, packed_folder, packed_of
from corank.schema import IdsFeature
from corank.tables import Table
from corank.train import Watcher
from corank.train import train as trained

Report = Callable[[str], object]


@dataclass(frozen=True)
class Checked:
    """What a config would train on."""

    config: Config
    features: list[dict[str, str]]
    """name, side, kind, table, and a mark for each tower and stage that the feature enters."""
    rows: dict[str, int]
    """Rows of each table."""
    splits: dict[str, int]
    """Candidates of the log in each split."""


def check(config: Path, overrides: Sequence[str] = ()) -> Checked:
    """Read a config and its tables, without packing or training anything. Raises ConfigError, DataError."""
    settings = read(config, overrides)
    base, data = config.parent, settings.data
    sources = {"log": data.log, "items": data.items, "users": data.users, "truth": data.truth}
    tables = {n: Table.scan(n, source, base) for n, source in sources.items() if source is not None}
    for name, table in tables.items():
        table.require(_columns(settings, name, tables))
    time, log = tables["log"].moment(data.time), tables["log"]
    counts = log.collect(
        log.frame.select(
            ((time >= a) & (time < b)).sum().alias(split) for split, (a, b) in data.splits().items()
        )
    )
    return Checked(
        settings,
        [_feature_row(settings, name) for name in settings.features],
        {n: int(t.collect(t.frame.select(n=_len())).item()) for n, t in tables.items()},
        {split: int(count or 0) for split, count in counts.row(0, named=True).items()},
    )


def _len() -> Any:
    import polars as pl

    return pl.len()


def _columns(settings: Config, table: str, tables: dict[str, Table]) -> set[str]:
    data, schema = settings.data, settings.declared
    if table == "truth":
        return {*data.request, data.item}
    if table in ("items", "users"):
        side, key = ("item", data.item) if table == "items" else ("user", data.user)
        mine = {schema.column(n) for n, f in settings.features.items() if f.side == side and not _history(f)}
        here = mine if table == "items" else mine & set(tables["users"].types)
        return here | {key}
    users = set(tables["users"].types) if "users" in tables else set()
    logged = {
        schema.column(n) for n, f in settings.features.items() if f.side != "item" and not _history(f)
    } - users
    own = {*data.request, data.user, data.item, data.time, *(label.column for label in data.labels.values())}
    return logged | own | {c for c in (data.level, data.weight) if c is not None}


def _history(feature: Any) -> bool:
    return isinstance(feature, IdsFeature) and feature.of is not None


def _feature_row(settings: Config, name: str) -> dict[str, str]:
    feature, schema = settings.features[name], settings.declared
    row = {"feature": name, "side": feature.side, "kind": feature.kind, "table": "-"}
    if name in schema.embedded():
        row["table"] = schema.table_of(name)
    for stage in settings.stages:
        if stage.model == "towers":
            for placement, names in (("query", stage.query_features), ("item", stage.item_features)):
                enters = feature.placement == placement and (names is None or name in names)
                row[f"{stage.name}.{placement}"] = "x" if enters else ""
        else:
            row[stage.name] = "x"
    return row


def pack(config: Path, overrides: Sequence[str] = (), report: Report = lambda line: None) -> Packed:
    """Pack the logs of a config to `packed/<name>` beside it. Raises ConfigError, DataError."""
    settings = read(config, overrides)
    return packed(
        settings.data, settings.declared, config.parent, packed_folder(settings, config.parent), report
    )


def train(
    config: Path,
    watcher: Watcher,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    folder: Path | None = None,
    report: Report = lambda line: None,
) -> tuple[Run, dict[str, Any]]:
    """Train a config, in `runs/<name>` beside it unless `folder` is given, packing first where needed.

    Returns the run and the validation figures of the epoch that was kept. Raises ConfigError, DataError,
    CheckpointError.
    """
    settings = read(config, overrides)
    folder = folder or config.parent / "runs" / settings.name
    run = Run(folder, settings, config.parent)
    held = any(folder.glob("*.safetensors"))
    if held and not (resume or overwrite):
        raise CheckpointError(
            f"{folder}: holds a training; go on with --resume, or begin anew with --overwrite"
        )
    data = _packed(settings, config, overrides, report)
    if not (resume and held):
        run = Run.create(folder, settings, config.parent)
    return run, trained(run, data, watcher, resume)


def _packed(settings: Config, config: Path, overrides: Sequence[str], report: Report) -> Packed:
    """The packing of a config, made where there is none; a stale one is refused by name."""
    if (packed_folder(settings, config.parent) / "manifest.json").exists():
        return packed_of(settings, config.parent)
    report("not packed yet: packing first")
    return pack(config, overrides, report)


def evaluate(run: Path, split: str = "test") -> dict[str, Any]:
    """Judge a run's stages on a split: the document of `corank evaluate --json`. Raises CheckpointError, DataError."""
    opened = Run.open(run)
    data = opened.packed()
    if split not in data.splits:
        raise DataError(f"no split '{split}'; the packed data have {', '.join(data.splits)}")
    model, calibrators = opened.model(data)
    settings = opened.config
    predictions = predict(model, data, split)
    truth = truth_of(data, split)
    return evaluated(predictions, settings.stages, settings.data.levels, calibrators, truth, split)


def export(run: Path, bundle: Path) -> Bundle:
    """Write a run's bundle. Raises CheckpointError, DataError, BundleError."""
    opened = Run.open(run)
    data = opened.packed()
    model, calibrators = opened.model(data)
    return exported(bundle, opened.config, data, model, calibrators)


def rank(bundle: Path, request: Path) -> dict[str, Any]:
    """Rank the candidates of a REQUEST.json. Raises BundleError, RequestError."""
    return Funnel.open(bundle).rank(Request.read(request))
