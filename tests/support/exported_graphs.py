"""Exports of a network that a bundle has already: its graphs are copied, since the exporter takes a second for each."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from corank.bundle.bundle import Bundle
from corank.core.calibration import Platt
from corank.evaluation.predict import Calibrators
from corank.models.joint import JointModel
from corank.training.config.config import Config


@contextmanager
def graphs_of(path: Path) -> Iterator[None]:
    """Let exports of the network of the bundle at `path` take its graphs, which the exporter wrote.

    For tests of what else an export does; tests/training/test_export.py tests the exporter.
    """
    bundle = Bundle.open(path)
    graphs = {graph.name: graph for graph in bundle.folder.glob("*.onnx")}

    def copy(folder: Path, config: Config, model: JointModel, calibrators: Calibrators) -> None:
        kept = {stage.name: stage.calibrators for stage in bundle.manifest.stages}
        assert {
            s: {n: Platt(p.slope, p.intercept) for n, p in by_label.items()} for s, by_label in kept.items()
        } == (calibrators)
        assert [stage.name for stage in config.stages] == [*model.stages] == [*kept]
        for name, graph in graphs.items():
            shutil.copy(graph, folder / name)

    with patch("corank.training.export.write_graphs", copy):
        yield
