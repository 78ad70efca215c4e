"""Graphs of a network → ONNX files.

Letters: R requests · n candidates · L events of the request of a graph that attends to some.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from corank.core.calibration import Platt
from corank.core.ordering import Formula
from corank.core.subnormal import flush_subnormals
from corank.evaluation.predict import Calibrators
from corank.features.input_layout import Layout, event_width
from corank.models.joint import JointModel
from corank.models.settings.stage import PARTS, StageSettings
from corank.models.stage_model import EVENTS, MATCHES, PART, REQUEST_OF, REQUEST_TENSORS, Graph
from corank.training.config.config import Config

COLUMN = "column."
"""Begins the name by which a graph `value` reads one of the data's columns."""
SCORED = {PARTS: "value", "graph": ""}
"""By scorer the graph whose logits become a stage's value, in `STAGE.value.onnx`."""


@cache
def _axes() -> dict[str, dict[int, Any]]:
    """The axes of each tensor whose size differs from request to request.

    Made when a graph is written: torch loads SymPy for them, a third of the time that importing torch takes.
    """
    requests, candidates, events = (torch.export.Dim(name, min=1) for name in ("requests", "n", "events"))
    every = {name: {0: candidates} for name in REQUEST_TENSORS}
    return every | {key: {1: events} for key in EVENTS} | {"query": {0: requests}}


def graph_file(stage: str, graph: str) -> str:
    """The file name of a stage's graph."""
    return f"{stage}.{graph}.onnx" if graph else f"{stage}.onnx"


class ValueGraph(nn.Module):
    """Logits of candidates, and the value that the stage orders them by: (n, labels), (n,)."""

    def __init__(
        self,
        scored: nn.Module,
        labels: list[str],
        calibrators: Mapping[str, Platt],
        value: Formula,
        named: Collection[str] = (),
    ) -> None:
        """
        Args:
            scored: computes the logits.
            labels: their order.
            calibrators: by label.
            value: the stage's formula.
            named: the inputs that `scored` takes by name; it takes all in a mapping if there are none.
        """
        super().__init__()
        self.scored, self._labels, self._calibrators, self._value = scored, labels, calibrators, value
        self._named = named

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The inputs of `scored` and the columns of the formula, (n,) each → (n, labels), (n,)."""
        named = {name: given[name] for name in self._named}
        logits = self.scored(**named) if named else self.scored(given)
        names = self._value.names
        known = {
            label: _probability(
                logits.squeeze(1) if len(self._labels) == 1 else logits[:, n], self._calibrators[label]
            )
            for n, label in enumerate(self._labels)
            if label in names
        }
        if self._value.single:
            return logits, known[self._value.single]
        columns = {name: given[COLUMN + name] for name in names if name not in known}
        doubles = {name: values.double() for name, values in (columns | known).items()}
        return logits, self._value.evaluate(doubles, lambda x: torch.tensor(float(x), dtype=torch.float64))


def _probability(logits: Tensor, platt: Platt) -> Tensor:
    """σ(slope · z + intercept), exact for small probabilities, which the runtime's own sigmoid is not: (n,)."""
    return 1 / (1 + torch.exp(logits * -platt.slope - platt.intercept))


def write_graphs(folder: Path, config: Config, model: JointModel, calibrators: Calibrators) -> None:
    """Write the graphs that serve every stage, `STAGE.GRAPH.onnx`; the whole one of scorer `graph` becomes `value`."""
    for stage in config.stages:
        network, tensors = model.network(stage.name), example_request(model, stage.name)
        for name, graph in network.graphs().items():
            path = folder / graph_file(stage.name, name)
            if name == "item":  # a part may be called as an input is
                write_graph(
                    path, replace(graph, outputs=tuple(PART + part for part in graph.outputs)), tensors
                )
            elif SCORED.get(stage.scorer) == name:
                path = folder / graph_file(stage.name, "value")
                examples = tensors | example_parts(model, stage.name)
                _write_value(path, graph, examples, stage, config, calibrators[stage.name])
            elif name != "value" and (stage.scorer != PARTS or stage.orders_by_product):
                write_graph(path, graph, tensors)


def _write_value(
    path: Path,
    graph: Graph,
    tensors: Mapping[str, Tensor],
    stage: StageSettings,
    config: Config,
    calibrators: Mapping[str, Platt],
) -> None:
    """Write the graph of a stage's candidates, with its calibrators and its value."""
    value = stage.ordering(config.data.columns)
    inputs = {name: tensors[name] for name in graph.inputs if name in tensors}
    named = () if stage.scorer == PARTS else tuple(inputs)
    module = ValueGraph(graph.module, list(stage.labels), calibrators, value, named)
    inputs |= {MATCHES: torch.zeros(2)} if MATCHES in graph.inputs else {}
    inputs |= {COLUMN + name: torch.ones(2) for name in value.names if name not in stage.labels}
    inputs = dict(sorted(inputs.items()))
    candidates = _axes()["item"]
    shapes = {name: _axes().get(name, candidates) for name in inputs}
    _export(path, module, {"given": inputs}, list(inputs), ["logits", "value"], {"given": shapes})


def example_parts(model: JointModel, stage: str) -> dict[str, Tensor]:
    """The outputs of a stage's graph `item` for two items: input name → (2, width); none if it has no such graph."""
    graphs = model.network(stage).graphs()
    if "item" not in graphs:
        return {}
    graph, tensors = graphs["item"], example_request(model, stage)
    with torch.no_grad():
        outputs = graph.module(**{name: tensors[name] for name in graph.inputs if name in tensors})
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    return {PART + name: part for name, part in zip(graph.outputs, parts, strict=True)}


def example_request(model: JointModel, stage: str) -> dict[str, Tensor]:
    """Tensors of the shapes that a stage reads of two requests, of a candidate each; only those that it reads."""
    layout: Layout = model.layout
    tensors = {"query": torch.zeros(2, layout.width("query")), "item": torch.zeros(2, layout.width("item"))}
    tensors[REQUEST_OF] = torch.arange(2)
    for placement in ("snapshot", "cross"):
        if layout.width(placement):
            tensors[placement] = torch.zeros(2, layout.width(placement))
    if stage in model.attends:
        attended = model.attends[stage]
        width = event_width(layout, attended.history, attended.features)
        tensors |= {"event": torch.zeros(1, 3, width), "mask": torch.zeros(1, 3)}
        tensors |= {"ages": torch.zeros(1, 3)} if attended.ages else {}
    if stage in model.earlier:
        tensors["earlier"] = torch.zeros(2, len(model.earlier[stage]))
    return tensors


def write_graph(path: Path, graph: Graph, tensors: dict[str, Tensor]) -> None:
    """Write one graph as ONNX, with the weights inside.

    Args:
        tensors: by name, examples of the graph's inputs; more are ignored.
    """
    inputs = {name: tensors[name] for name in graph.inputs if name in tensors}
    shapes = {name: _axes()[name] for name in inputs}
    _export(path, graph.module, inputs, list(inputs), list(graph.outputs), shapes)


def _export(
    path: Path,
    module: nn.Module,
    arguments: dict[str, Any],
    inputs: list[str],
    outputs: list[str],
    shapes: dict[str, Any],
) -> None:
    """Write a module as ONNX, its inputs and outputs called by names."""
    # the exporter reports its progress on stdout and in logs, where a user looks for corank's own words
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        _quiet("torch.onnx", "onnxscript"),
        _shared_operators(),
        _listed_operators(),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (),
            kwargs=arguments,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    _flush_weights(program.model.graph)
    program.save(str(path), external_data=False)


def _flush_weights(graph: Any) -> None:
    """Replace subnormal weights of a graph by 0."""
    from onnx_ir import Tensor  # slow to import

    for value in graph.initializers.values():
        numbers = value.const_value.numpy()
        if numbers.dtype == np.float32 and (flushed := flush_subnormals(numbers)) is not numbers:
            value.const_value = Tensor(flushed, name=value.name)


@contextlib.contextmanager
def _shared_operators() -> Iterator[None]:
    """Let the exporter build its table of ONNX operators once.

    It builds one for each graph, half of the graph's time, and no public option shares it. Exports of other code keep
    tables of their own, to which they may add operators.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # slow to import

    with patch.object(ONNXRegistry, "from_torchlib", staticmethod(_build_once())):
        yield


@cache
def _build_once() -> Callable[..., Any]:
    """The exporter's function that builds the table, which gives the same one when called again."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return cache(ONNXRegistry.from_torchlib)


@contextlib.contextmanager
def _listed_operators() -> Iterator[None]:
    """Let torch list its composite operators once for a graph.

    It lists those of all namespaces for each namespace again, in case one was registered between.
    """
    from torch._export import utils

    with patch.object(utils, "_materialize_cpp_cia_ops", cache(utils._materialize_cpp_cia_ops)):
        yield


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
