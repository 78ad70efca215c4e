"""A trained model → a bundle: graphs over dense inputs, tables and vectors as arrays, encoders, calibrators.

Letters: n candidates · N items · d last width of the towers.
"""

import contextlib
import hashlib
import io
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.arrays import write_array, write_frame, write_ragged
from corank.bundle import FORMAT, Bundle, Calibration, Manifest, StageFacts, next_seq, write
from corank.calibrate import Platt
from corank.config import Config
from corank.embedding import Tables
from corank.errors import BundleError
from corank.evaluate import Calibrators
from corank.joint import JointModel
from corank.layout import Layout, dense
from corank.pack import Packed
from corank.prerank import Towers
from corank.rank import Mlp
from corank.rows import Floats, Rows

ITEMS_AT_ONCE = 65_536


class RankGraph(nn.Module):
    """query (1, ·), item (n, ·), cross (n, ·) → logits (n, labels), the first layer split as in training."""

    def __init__(self, stage: Mlp) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, query: Tensor, item: Tensor, cross: Tensor | None = None) -> Tensor:
        parts = torch.split(self.stage.first.weight, self.stage.widths, dim=1)
        first = functional.linear(query, parts[0], self.stage.first.bias) + functional.linear(item, parts[1])
        if cross is not None:
            first = first + functional.linear(cross, parts[2])
        return torch.stack(list(self.stage.above(first).values()), dim=1)


def export(path: Path, config: Config, packed: Packed, model: JointModel, calibrators: Calibrators) -> Bundle:
    """Write the bundle of a trained model. Raises BundleError; what was at `path` before is untouched then."""
    model = model.cpu().eval()
    version = model_version(config, packed, model, calibrators)
    manifest = Manifest(
        format=FORMAT,
        name=config.name,
        model_version=version,
        items_seq=next_seq(path, version),
        content="",
        user=config.data.user,
        item=config.data.item,
        features=config.features,
        stages=[_facts(config, model, calibrators, stage.name) for stage in config.stages],
        parts={},
    )
    return write(path, manifest, lambda folder: _fill(folder, packed, model))


def model_version(config: Config, packed: Packed, model: JointModel, calibrators: Calibrators) -> str:
    """A hash of weights, encoders, calibrators and schema: 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.contiguous().reshape(-1).numpy()))
    for file in sorted((packed.folder / "encoders").iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    plain = config.model_dump(mode="json", by_alias=True)
    schema = [plain["features"], plain["stages"], {s: _plain(c) for s, c in calibrators.items()}]
    digest.update(json.dumps(schema, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _plain(calibrators: dict[str, Platt]) -> dict[str, dict[str, float]]:
    return {label: asdict(platt) for label, platt in calibrators.items()}


def _facts(config: Config, model: JointModel, calibrators: Calibrators, name: str) -> StageFacts:
    settings, stage = config.stage(name), model.stages[name]
    scale, bias = (stage.scale.exp().item(), stage.bias.item()) if isinstance(stage, Towers) else (None, None)
    return StageFacts(
        name=name,
        model=settings.model,
        keep=settings.keep,
        labels=settings.labels,
        value=settings.value,
        calibrators={n: Calibration(**asdict(platt)) for n, platt in calibrators[name].items()},
        tables=model.tables_of[name],
        scale=scale,
        bias=bias,
    )


def _fill(folder: Path, packed: Packed, model: JointModel) -> None:
    packed.encoders.save(folder / "encoders")
    tables = {
        name: {int(dim): weight.detach().numpy() for dim, weight in held.weights.items()}
        for name, held in model.tables.items()
        if isinstance(held, Tables) and name in {model.tables_of[stage] for stage in model.stages}
    }
    for name, held in tables.items():
        (folder / "tables" / name).mkdir(parents=True)
        for dim, table in held.items():
            write_array(folder / "tables" / name / f"{dim}.npy", table)
    _write_graphs(folder, model)
    _write_items(folder, packed, model, tables)


def _write_graphs(folder: Path, model: JointModel) -> None:
    width = model.layout.width
    query, item = torch.zeros(1, width("query")), torch.zeros(2, width("item"))
    for name, stage in model.stages.items():
        if isinstance(stage, Towers):
            _write_graph(folder / f"{name}.query.onnx", stage.query, {"query": query}, ["vector"])
            _write_graph(folder / f"{name}.item.onnx", stage.item, {"item": item}, ["vector"])
        elif isinstance(stage, Mlp):
            inputs = {"query": query, "item": item}
            if width("cross"):
                inputs["cross"] = torch.zeros(2, width("cross"))
            _write_graph(folder / f"{name}.onnx", RankGraph(stage), inputs, ["logits"])


def _write_graph(path: Path, graph: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> None:
    n = torch.export.Dim("n", min=1)
    # a tuple: the towers call their input otherwise than the graph does
    shapes = tuple({} if name == "query" else {0: n} for name in inputs)
    # the exporter tells its progress on stdout and in logs, where a user looks for corank's own words
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        _quiet("torch.onnx", "onnxscript"),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


@contextlib.contextmanager
def _quiet(*names: str):  # type: ignore[no-untyped-def]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write_items(
    folder: Path, packed: Packed, model: JointModel, tables: dict[str, dict[int, Floats]]
) -> None:
    """The newest row of every item, in the order of ids, with its vector for each towers stage."""
    keys, newest = packed.newest_items()
    rows = packed.items.take(newest)
    items = folder / "items"
    items.mkdir()
    write_frame(items / "keys.arrow", keys.to_frame())
    write_array(items / "ids.npy", rows.ids)
    write_array(items / "numbers.npy", rows.numbers)
    for n, lists in enumerate(rows.lists):
        write_ragged(items, n, lists)
    for stage in model.stages:
        graph = folder / f"{stage}.item.onnx"
        if graph.exists():
            write_array(
                items / f"vectors.{stage}.npy",
                item_vectors(graph, model.layout, rows, tables[model.tables_of[stage]]),
            )


def item_vectors(graph: Path, layout: Layout, rows: Rows, tables: dict[int, Floats]) -> Floats:
    """An item tower's vectors of N rows: (N, d). Raises BundleError where one is not finite."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    parts = []
    for first in range(0, len(rows), ITEMS_AT_ONCE):
        index = np.arange(first, min(first + ITEMS_AT_ONCE, len(rows)))
        parts += session.run(None, {"item": dense(rows.take(index), layout.groups["item"], tables)})
    vectors: Floats = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        raise BundleError(f"{graph.stem}: {(~np.isfinite(vectors)).any(1).sum()} item vectors are not finite")
    return vectors
