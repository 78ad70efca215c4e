"""Exports of a network that a bundle has already: its graphs are copied, since the exporter takes a second for each."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from corank.bundle.bundle import Bundle
from corank.models.joint import JointModel
from corank.training.onnx_graphs import graph_file


@contextmanager
def graphs_of(path: Path) -> Iterator[None]:
    """Let exports of the network of the bundle at `path` take its graphs, which the exporter wrote.

    For tests of what else an export does; tests/training/test_export.py tests the exporter.
    """
    held = {graph.name: graph for graph in Bundle.open(path).folder.glob("*.onnx")}

    def copy(folder: Path, model: JointModel) -> None:
        names = {graph_file(s, name) for s in model.stages for name in model.network(s).graphs()}
        assert names == held.keys()
        for name, graph in held.items():
            shutil.copy(graph, folder / name)

    with patch("corank.training.export.write_graphs", copy):
        yield
