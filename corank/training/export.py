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

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.bundle.item_records import ItemRecords
from corank.bundle.item_vectors import ItemTowers, save_vectors
from corank.bundle.manifest import (
    FORMAT,
    Attention,
    Bundle,
    BundleManifest,
    Calibration,
    StageFacts,
    next_seq,
    write,
)
from corank.bundle.retrieval import sampled_queries, write_retrieval
from corank.core.calibration import Platt
from corank.core.files import write_array
from corank.data.dataset import PackedDataset, prior_folder
from corank.evaluation.stage_order import Calibrators
from corank.features.priors import Snapshots
from corank.features.vocabulary import Keys
from corank.models.embedding import Tables
from corank.models.joint import JointModel
from corank.models.mlp import Mlp
from corank.models.two_tower import Towers, TowersSettings
from corank.training.config import Config


class RankGraph(nn.Module):
    """Of one request: query (1, ·), item (n, ·), cross (n, ·) → logits (n, labels), first layer split as in training.

    With attention also event (L, w), the attended features of a history's items, and mask (L,), 0 for one that only
    fills it up; with earlier stages what is seen of them (n, ·).
    """

    def __init__(self, stage: Mlp) -> None:
        super().__init__()
        self.stage = stage

    def forward(
        self,
        query: Tensor,
        item: Tensor,
        cross: Tensor | None = None,
        event: Tensor | None = None,
        mask: Tensor | None = None,
        earlier: Tensor | None = None,
    ) -> Tensor:
        stage = self.stage
        parts = torch.split(stage.first.weight, stage.widths, dim=1)
        first = functional.linear(query, parts[0], stage.first.bias) + functional.linear(item, parts[1])
        if cross is not None:
            first = first + functional.linear(cross, parts[2])
        if event is not None and mask is not None and stage.din is not None:
            first = first + stage.interest(stage.din.dense(stage.target(item), event, mask))
        if earlier is not None and stage.earlier is not None:
            first = first + stage.earlier(earlier)
        crossed = None
        if stage.dcn is not None:
            every = [query.expand(item.shape[0], -1), item, *([] if cross is None else [cross])]
            crossed = stage.dcn.crossed(torch.cat(every, 1))
        return torch.stack(list(stage.above(first, crossed).values()), dim=1)


def export(
    path: Path, config: Config, packed: PackedDataset, model: JointModel, calibrators: Calibrators
) -> Bundle:
    """Write the bundle of a trained model, priors as of the last snapshot before the log's end.

    Raises BundleError; what was at `path` before is untouched then.
    """
    model = model.cpu().eval()
    version = model_version(config, packed, model, calibrators)
    priors = packed.priors.as_of(packed.schema.priors(), packed.manifest.last)
    manifest = BundleManifest(
        format=FORMAT,
        name=config.name,
        model_version=version,
        items_seq=next_seq(path, version),
        content="",
        data=config.data,
        features=config.features,
        stages=[_facts(config, model, calibrators, stage.name) for stage in config.stages],
        sources=packed.manifest.sources,
        priors=dict(priors.cut or {}),
        items_at=packed.manifest.items_at,
        item_columns=packed.manifest.item_columns,
        plugins=config.plugins,
        parts={},
    )
    return write(path, manifest, lambda folder: _fill(folder, config, packed, model, priors))


def model_version(config: Config, packed: PackedDataset, model: JointModel, calibrators: Calibrators) -> str:
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
    attended = stage.attended if isinstance(stage, Mlp) else None
    return StageFacts(
        name=name,
        model=settings.model,
        cuts=settings.cuts,
        keep=settings.keep,
        min_score=settings.min_score,
        deadline_ms=settings.deadline_ms,
        labels=settings.labels,
        value=settings.value,
        calibrators={n: Calibration(**asdict(platt)) for n, platt in calibrators[name].items()},
        tables=model.tables_of[name],
        scale=scale,
        width=settings.item[-1] if isinstance(settings, TowersSettings) else None,
        bias=bias,
        main=settings.main,
        attended=Attention(history=attended.history, features=list(attended.features)) if attended else None,
        from_stages=model.sees.get(name, []),
    )


def _fill(folder: Path, config: Config, packed: PackedDataset, model: JointModel, priors: Snapshots) -> None:
    packed.encoders.save(folder / "encoders")
    for n, rates in enumerate(priors.rates.values()):
        rates.save(prior_folder(folder, n))
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
    records = newest(packed).refresh_derived(packed.encoders, priors)
    records.save(folder / "items")
    towers = {name: model.tables_of[name] for name, s in model.stages.items() if isinstance(s, Towers)}
    vectors = ItemTowers(folder, towers, model.layout, tables).vectors(records.rows)
    save_vectors(folder, vectors)
    if config.retrieval is not None:
        stage = config.retrieval.stage
        held = tables[towers[stage]]
        queries = sampled_queries(packed, model.layout, held, folder / f"{stage}.query.onnx")
        write_retrieval(folder, config.retrieval, vectors[stage], queries)


def newest(packed: PackedDataset) -> ItemRecords:
    """The newest row of every item."""
    ids, row = packed.newest_items()
    columns = {name: values[row] for name, values in packed.item_columns.items()}
    return ItemRecords(Keys(ids), packed.items.take(row), packed.item_operands.take(row), columns)


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
            if stage.din is not None:
                inputs |= {"event": torch.zeros(3, stage.interest.in_features), "mask": torch.zeros(3)}
            if stage.earlier is not None:
                inputs["earlier"] = torch.zeros(2, stage.earlier.in_features)
            _write_graph(folder / f"{name}.onnx", RankGraph(stage), inputs, ["logits"])


def _write_graph(path: Path, graph: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> None:
    n, events = torch.export.Dim("n", min=1), torch.export.Dim("events", min=1)
    axis = {"query": {}, "event": {0: events}, "mask": {0: events}}
    shapes = {name: axis.get(name, {0: n}) for name in inputs}
    # a tower calls its input otherwise than the graph does
    by_name = isinstance(graph, RankGraph)
    # the exporter tells its progress on stdout and in logs, where a user looks for corank's own words
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        _quiet("torch.onnx", "onnxscript"),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            () if by_name else tuple(inputs.values()),
            kwargs=dict(inputs) if by_name else None,
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=shapes if by_name else tuple(shapes.values()),
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
