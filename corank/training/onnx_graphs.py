"""Graphs of a network → ONNX files."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from corank.features.histories.event_layout import event_width
from corank.features.input_layout import Layout
from corank.models.graphs import REQUEST_TENSORS, Graph
from corank.models.joint import JointModel


@cache
def _axes() -> dict[str, dict[int, Any]]:
    """The axes of each tensor whose size differs from request to request.

    Made when a graph is written: torch loads SymPy for them, a third of the time that importing torch takes.
    """
    candidates, events = torch.export.Dim("n", min=1), torch.export.Dim("events", min=1)
    every = {name: {0: candidates} for name in REQUEST_TENSORS}
    return every | {"query": {}, **{name: {0: events} for name in ("event", "mask", "ages")}}


def graph_file(stage: str, graph: str) -> str:
    """The file name of a stage's graph."""
    return f"{stage}.{graph}.onnx" if graph else f"{stage}.onnx"


def write_graphs(folder: Path, model: JointModel) -> None:
    """Write the graphs of every stage into a folder: `STAGE.GRAPH.onnx`, or `STAGE.onnx` if it is the whole stage."""
    for stage in model.stages:
        tensors = example_request(model, stage)
        for name, graph in model.network(stage).graphs().items():
            write_graph(folder / graph_file(stage, name), graph, tensors)


def example_request(model: JointModel, stage: str) -> dict[str, Tensor]:
    """Tensors of the shapes that a stage reads of one request, of two candidates; those that it has no use for lack."""
    layout: Layout = model.layout
    tensors = {"query": torch.zeros(1, layout.width("query")), "item": torch.zeros(2, layout.width("item"))}
    for placement in ("snapshot", "cross"):
        if layout.width(placement):
            tensors[placement] = torch.zeros(2, layout.width(placement))
    if stage in model.attends:
        attended = model.attends[stage]
        width = event_width(layout, attended.history, attended.features)
        tensors |= {"event": torch.zeros(3, width), "mask": torch.zeros(3)}
        tensors |= {"ages": torch.zeros(3)} if attended.ages else {}
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
    # the exporter tells its progress on stdout and in logs, where a user looks for corank's own words
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        _quiet("torch.onnx", "onnxscript"),
        _shared_operators(),
        _listed_operators(),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module.eval(),
            (),
            kwargs=inputs,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


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

    It lists those of all namespaces for each namespace anew, in case one was registered between.
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
