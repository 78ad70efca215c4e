"""A trained model → a bundle: graphs over dense inputs, tables and item parts as arrays, encoders, calibrators."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from corank.bundle.bundle import Bundle, next_items_seq, write_content
from corank.bundle.content import ItemGraphs, part_file, projection_file, save_parts, store_parts
from corank.bundle.item_records import ItemRecords
from corank.bundle.layout_file import write_layout
from corank.bundle.manifest import MOST_PARTS, BundleManifest, ItemsAsOf
from corank.bundle.signatures import SigningKeys
from corank.bundle.stage_facts import Attention, Calibration, PrecisionLoss, StageFacts
from corank.core.arrays import append_array, read_array, write_array
from corank.core.artifact import ArtifactWriter
from corank.core.errors import BundleError, DataError
from corank.core.files import link_file, list_files, scratch_folder
from corank.core.subnormal import SMALLEST, flush_subnormals
from corank.core.time import format_time
from corank.core.types import Floats
from corank.data.packed.dataset import PackedDataset, prior_folder
from corank.evaluation.predictions import Calibrators
from corank.features.input_layout import Layout, TableSet
from corank.features.priors import PriorSnapshots
from corank.models.joint import JointModel
from corank.models.stage_model import PART, StageModel
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.training_state import model_state
from corank.training.config.config import Config
from corank.training.graph_templates import Templates
from corank.training.model_version import model_version
from corank.training.onnx_graphs import example_parts, write_graphs

MeasureLoss = Callable[[Bundle, Bundle], PrecisionLoss]
"""Compares a bundle in fp32 with the same bundle as it is stored. Raises ConfigError if the loss is beyond a bound."""


def export_bundle(
    path: Path,
    config: Config,
    packed: PackedDataset,
    model: JointModel,
    calibrators: Calibrators,
    sign: SigningKeys | None = None,
    items_as_of: ItemsAsOf | None = None,
    weights: Checkpoint | None = None,
    until: int | None = None,
    later: bool = False,
    measure: MeasureLoss | None = None,
    templates: Templates | None = None,
) -> Bundle:
    """Write the bundle of a trained model, priors from the last snapshot at or before the log's end.

    Args:
        path: the bundle's folder.
        config: of the run.
        packed: the data that the model was trained on.
        model: trained; its tables may have no rows if `weights` has them.
        calibrators: of each stage.
        sign: keys that sign it.
        items_as_of: what the table of items contains; None if it is not known.
        weights: those of the trained model, which are read piece by piece; the model's own by default.
        until: the time until which the log is complete, ms UTC; that of its last row by default.
        later: whether the log may continue after `until`; priors and ages are then as if it did not.
        measure: measures what parts in less than fp32 change, and refuses too much; nobody does for a bundle that is
            not to be served.
        templates: of graphs that are known, such as the run's; those of the user's cache alone by default.

    Raises BusyError, BundleError; ConfigError if a precision loses too much; and DataError if the log continues after
    `until` and may not, or a number is too large for its precision. What was at `path` before is untouched then.
    """
    until = until if later and until is not None else _check_until(packed, until)
    with ArtifactWriter.lock(path, BundleManifest, "export") as writer:
        weights, model = weights or model_state(model.cpu(), {}), model.cpu().eval()
        version = model_version(config, packed, weights, calibrators)
        with packed.naming_damage():
            priors = packed.priors.as_of(packed.schema.snapshots(), packed.schema.priors(), until)
        items_seq = next_items_seq(writer.path, version)
        manifest = make_manifest(config, packed, model, calibrators, priors, version, items_seq, items_as_of)

        def fill(folder: Path) -> BundleManifest:
            packed.encoders.save(folder / "encoders")
            for n, rates in enumerate(priors.rates.values()):
                rates.save(prior_folder(folder, n))
            write_layout(folder, manifest, model.layout, priors)
            sets = dict.fromkeys(model.tables_of[stage] for stage in model.stages)
            tables = {n: _write_tables(folder / "tables" / n, n, weights, model.layout) for n in sets}
            write_graphs(folder, config, model, calibrators, templates or Templates())
            with packed.naming_damage():
                records = ItemRecords.of_packed(packed, priors, *packed.newest_items())
            records.save(folder / "items")
            exact = ItemGraphs(folder, manifest.stages, model.layout, tables).compute_all(records.rows)
            save_parts(folder, store_parts(exact, manifest.stages))
            written = manifest
            if measure is not None and config.export.lowered:
                written = _note_loss(folder, manifest, exact, measure)
            return written

        return write_content(writer, manifest, fill, sign)


def _check_until(packed: PackedDataset, until: int | None) -> int:
    """The time until which the log is complete. Raises DataError if it continues after `until`."""
    last = packed.manifest.last
    if until is not None and until < last:
        raise DataError(
            f"--until {format_time(until)}: the log goes on until {format_time(last)}; name a later time, until "
            "which no candidate is missing"
        )
    return last if until is None else until


def make_manifest(
    config: Config,
    packed: PackedDataset,
    model: JointModel,
    calibrators: Calibrators,
    priors: PriorSnapshots,
    version: str = "",
    items_seq: int = 0,
    items_as_of: ItemsAsOf | None = None,
) -> BundleManifest:
    """Make the manifest of a model's bundle, whose parts are not written yet."""
    return BundleManifest(
        name=config.name,
        model_version=version,
        items_seq=items_seq,
        data=config.data,
        features=config.declared.features,
        stages=[_facts(config, model, calibrators, stage.name) for stage in config.stages],
        page=config.page,
        retrieval=config.retrieval,
        sources=packed.manifest.sources,
        priors=dict(priors.cut or {}),
        items_as_of=items_as_of,
        item_columns=packed.manifest.item_columns,
        user_ids=_id_type(packed.users),
        plugins=config.plugins,
    )


def _id_type(ids: pl.Series) -> Literal["text", "whole numbers"] | None:
    """The type of ids; None for dates and times."""
    if ids.dtype == pl.String:
        return "text"
    return "whole numbers" if ids.dtype == pl.Int64 else None


def _facts(config: Config, model: JointModel, calibrators: Calibrators, name: str) -> StageFacts:
    settings, network = config.stage(name), model.network(name)
    attended = model.attends.get(name)
    return StageFacts(
        name=name,
        model=settings.model,
        scorer=settings.scorer,
        cuts=settings.cuts,
        keep=settings.keep,
        min_score=settings.min_score,
        deadline_ms=settings.deadline_ms,
        labels=list(settings.labels),
        value=settings.value,
        calibrators={n: Calibration(**asdict(platt)) for n, platt in calibrators[name].items()},
        tables=model.tables_of[name],
        item_parts={
            n.removeprefix(PART): tensor.shape[1] for n, tensor in example_parts(model, name).items()
        },
        precision=config.export.of(name),
        constants=_constants(network, name),
        matches=settings.counted(),
        main=settings.main,
        attended=attended and Attention(**asdict(attended) | {"features": list(attended.features)}),
        from_stages=model.earlier.get(name, []),
    )


def _constants(network: StageModel, stage: str) -> dict[str, float]:
    """The numbers that a stage's scorer needs. Raises BundleError if one is not finite."""
    constants = dict(network.constants())
    for name, number in constants.items():
        if not math.isfinite(number):
            raise BundleError(f"stage '{stage}': its {name} is {number}: weights too large; train again")
    return {name: number if abs(number) >= SMALLEST else 0.0 for name, number in constants.items()}


def _note_loss(
    folder: Path, manifest: BundleManifest, exact: Mapping[str, Floats], measure: MeasureLoss
) -> BundleManifest:
    """Measure the loss of a content's precision, for its manifest."""
    with scratch_folder(folder) as scratch:
        loss = measure(_write_full_precision(scratch, folder, manifest, exact), Bundle(folder, manifest))
    return manifest.model_copy(update={"precision_loss": loss})


def _write_full_precision(
    folder: Path, content: Path, manifest: BundleManifest, parts: Mapping[str, Floats]
) -> Bundle:
    """Write the content of a bundle with its item parts in fp32 into a folder; what does not differ is linked.

    It is the reference for measuring the precision loss of a content that is being written.

    Args:
        folder: of the new content.
        content: the content.
        manifest: of the content.
        parts: (N, d) by `STAGE.PART`.
    """
    own = {part_file(content, part).stem for part in parts}
    for part in list_files(content, MOST_PARTS):
        stem = Path(part).name.removesuffix(".npy").removesuffix(".scale")
        if not (part.startswith("items/") and stem in own):
            link_file(content / part, folder / part)
    stages = [stage.model_copy(update={"precision": {}}) for stage in manifest.stages]
    save_parts(folder, store_parts(parts, stages))
    return Bundle(folder, manifest.model_copy(update={"stages": stages}))


def _write_tables(folder: Path, name: str, weights: Checkpoint, layout: Layout) -> TableSet:
    """Write a set of tables and projections into a folder, which is made, a piece at a time. Returns them, mapped."""
    folder.mkdir(parents=True)
    tables: dict[int | str, Floats] = {}
    for dim, rows in layout.table_rows.items():
        path = folder / f"{dim}.npy"
        with append_array(path, (rows, dim), np.float32) as append:
            for piece in weights.pieces(f"tables.{name}.weights.{dim}"):
                append(flush_subnormals(piece.detach().numpy()))
        tables[dim] = read_array(path, np.float32, (rows, dim))
    for n, (feature, shape) in enumerate(layout.projections.items()):
        path = projection_file(folder, n)
        write_array(path, flush_subnormals(weights.whole(f"projections.{name}.{n}").detach().numpy()))
        tables[feature] = read_array(path, np.float32, shape)
    return tables
