"""Graphs of networks → ONNX files. They are exported as one model, and cut out of it.

Letters: R requests · n candidates · L events of the request of a graph that attends to some.
"""

import contextlib
import hashlib
import inspect
import io
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from corank.bundle.graph_files import RUNTIME_ERRORS, open_session
from corank.core.calibration import Platt
from corank.core.errors import BundleError
from corank.core.lazy import without_collection
from corank.core.ordering import Formula
from corank.core.subnormal import flush_subnormals
from corank.core.types import Numbers
from corank.evaluation.predictions import Calibrators
from corank.features.input_layout import Layout, event_width
from corank.models.joint import JointModel
from corank.models.settings.stage import PARTS, StageSettings
from corank.models.stage_model import EVENTS, MATCHES, PART, REQUEST_OF, Graph
from corank.models.trees import NAMED, OPERATOR, Attributes, ExportedTrees
from corank.training.config.config import Config
from corank.training.graph_templates import GraphFile, Templates, cut_graph, strip_template

if TYPE_CHECKING:
    from onnx import ModelProto

COLUMN = "column."
"""Begins the name by which a graph `value` reads one of the data's columns."""
SCORED = {PARTS: "value", "graph": ""}
"""By scorer the graph whose logits become a stage's value, in `STAGE.value.onnx`."""
AXES = ("requests", "n", "events")
"""The names of axes in files."""
AGREEMENT = 1e-4
"""How far what a kept template computes may be from the model, relative to the largest number."""
_VERSIONED = ("corank", "torch", "onnx", "onnxscript", "onnx-ir")
"""Packages that decide what a template is."""
_NO_GRAPHS = {"name", "cuts", "keep", "min_score", "deadline_ms"}
"""Settings of stages that no graph depends on."""


def _axes(number: int) -> dict[str, dict[int, Any]]:
    """The axes of each tensor whose size differs from request to request, for a graph of a number.

    Graphs have axes of their own, so that none is computed from the inputs of another. They are made when graphs are
    exported: torch loads SymPy for them, a third of the time that importing torch takes.
    """
    requests, candidates, events = (torch.export.Dim(f"{axis}_{number}", min=1) for axis in AXES)
    every: dict[str, dict[int, Any]] = defaultdict(lambda: {0: candidates})
    every |= {key: {1: events} for key in EVENTS} | {"query": {0: requests}}
    return every


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
        self.scored, self._labels, self._value = scored, labels, value
        self._named = named
        # weights as any other, so that the graph does not depend on them
        scored_labels = [label for label in labels if label in value.names]
        self.slope = nn.ParameterList(_constant(calibrators[label].slope) for label in scored_labels)
        self.intercept = nn.ParameterList(_constant(calibrators[label].intercept) for label in scored_labels)

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The inputs of `scored` and the columns of the formula, (n,) each → (n, labels), (n,)."""
        named = {name: given[name] for name in self._named}
        logits = self.scored(**named) if named else self.scored(given)
        names = self._value.names
        by_label = {
            label: logits.squeeze(1) if len(self._labels) == 1 else logits[:, n]
            for n, label in enumerate(self._labels)
            if label in names
        }
        known = {label: self._probability(z, n) for n, (label, z) in enumerate(by_label.items())}
        if self._value.single:
            return logits, known[self._value.single]
        columns = {name: given[COLUMN + name] for name in names if name not in known}
        doubles = {name: values.double() for name, values in (columns | known).items()}
        return logits, self._value.evaluate(doubles, lambda x: torch.tensor(float(x), dtype=torch.float64))

    def _probability(self, logits: Tensor, n: int) -> Tensor:
        """σ(slope · z + intercept) of the n-th label of the formula: (n,).

        It is exact for small probabilities, which the runtime's own sigmoid is not.
        """
        return 1 / (1 + torch.exp(logits * -self.slope[n] - self.intercept[n]))


def _constant(number: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(number, dtype=torch.float32), requires_grad=False)


class Program(nn.Module):
    """All graphs of some networks as one module, so that they are exported together.

    Each has inputs of its own, `N/NAME` for those of the N-th graph.
    """

    def __init__(self, networks: Iterable[nn.Module], graphs: Mapping[str, "FileGraph"]) -> None:
        """
        Args:
            networks: whose graphs they are.
            graphs: by file.
        """
        super().__init__()
        self.graphs = graphs
        self.parts = nn.ModuleList(file.graph.module for file in graphs.values())
        # after the graphs: weights have the names that they have here
        self.networks = nn.ModuleList(networks)
        # copies, since the exporter takes a tensor that two inputs share for one input
        self.tensors = {
            f"{n}/{name}": tensor.clone()
            for n, file in enumerate(graphs.values())
            for name, tensor in file.tensors.items()
        }
        self.eval()

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Compute the outputs of all graphs, one after the other."""
        outputs: list[Tensor] = []
        for n, file in enumerate(self.graphs.values()):
            inputs, module = {name: given[f"{n}/{name}"] for name in file.tensors}, file.graph.module
            computed = module(inputs) if isinstance(module, ValueGraph) else module(**inputs)
            outputs += computed if isinstance(computed, tuple) else (computed,)
        return tuple(outputs)

    def files(self) -> dict[str, GraphFile]:
        """What each file has."""
        outputs = iter(range(sum(len(file.graph.outputs) for file in self.graphs.values())))
        return {
            path: GraphFile(
                {f"{n}/{name}": name for name in file.tensors},
                {next(outputs): name for name in file.graph.outputs},
            )
            for n, (path, file) in enumerate(self.graphs.items())
        }

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """What a template leaves out, by the names of its initialisers."""
        return {name: tensor for name, tensor in self._named_tensors() if tensor.is_floating_point()}

    @cached_property
    def trees(self) -> dict[str, Attributes]:
        """The attributes of operators that a template leaves out, by the names that these have."""
        exported = (module for module in self.modules() if isinstance(module, ExportedTrees))
        return {name: attributes for module in exported for name, attributes in module.attributes.items()}

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters(remove_duplicate=False)
        yield from self.named_buffers(remove_duplicate=False)

    def shape(self) -> dict[str, Any]:
        """What the template depends on besides the stages' settings: shapes of inputs and weights, other buffers."""
        named = self.tensors | self.weights
        others = {name: x.tolist() for name, x in self._named_tensors() if name not in self.weights}
        shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in named.items()}
        outputs = [file.graph.outputs for file in self.graphs.values()]
        return {"outputs": outputs, "shapes": shapes, "buffers": others}


@dataclass(frozen=True)
class FileGraph:
    """The graph of a file."""

    graph: Graph
    tensors: Mapping[str, Tensor]
    """Examples of all its inputs, in their order."""

    @classmethod
    def of(cls, graph: Graph, tensors: Mapping[str, Tensor]) -> Self:
        """The graph with those of some tensors that it reads."""
        return cls(graph, {name: tensors[name] for name in graph.inputs if name in tensors})


def write_graphs(
    folder: Path, config: Config, model: JointModel, calibrators: Calibrators, templates: Templates
) -> None:
    """Write the graphs that serve every stage, `STAGE.GRAPH.onnx`; the whole one of scorer `graph` becomes `value`."""
    program = _program(config, model, calibrators)
    key = _template_key(config, program)
    kept = None if key is None else templates.read(key)
    if kept is not None and _fits(kept, program, folder):
        return
    template = _export(program)
    _write(template, program, folder)
    if key is not None:
        templates.keep(key, template)  # in place of one that does not fit


def _program(config: Config, model: JointModel, calibrators: Calibrators) -> Program:
    """The graphs of all files."""
    graphs = {
        graph_file(stage.name, name): graph
        for stage in config.stages
        for name, graph in _stage_graphs(stage, config, model, calibrators[stage.name])
    }
    return Program((model.network(stage.name) for stage in config.stages), graphs)


def _stage_graphs(
    stage: StageSettings, config: Config, model: JointModel, calibrators: Mapping[str, Platt]
) -> Iterator[tuple[str, FileGraph]]:
    """The graphs of a stage's files, by the name that they add to the stage's."""
    tensors = example_request(model, stage.name) | example_parts(model, stage.name)
    tensors[MATCHES] = torch.zeros(2)
    for name, graph in model.network(stage.name).graphs().items():
        if name == "item":  # a part may be called as an input is
            named = replace(graph, outputs=tuple(PART + part for part in graph.outputs))
            yield name, FileGraph.of(named, tensors)
        elif SCORED.get(stage.scorer) == name:
            yield "value", _value_graph(graph, tensors, stage, config, calibrators)
        elif name != "value" and (stage.scorer != PARTS or stage.orders_by_product):
            yield name, FileGraph.of(graph, tensors)


def _value_graph(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    stage: StageSettings,
    config: Config,
    calibrators: Mapping[str, Platt],
) -> FileGraph:
    """The graph of a stage's candidates, with its calibrators and its value."""
    value = stage.ordering(config.data.columns)
    inputs = sorted(name for name in graph.inputs if name in tensors)
    columns = {COLUMN + name: torch.ones(2) for name in value.names if name not in stage.labels}
    named = () if stage.scorer == PARTS else inputs
    module = ValueGraph(graph.module, list(stage.labels), calibrators, value, named)
    read = tuple(sorted((*inputs, *columns)))
    return FileGraph.of(Graph(module, read, ("logits", "value")), {**tensors, **columns})


def _template_key(config: Config, program: Program) -> str | None:
    """A hash of all that the template depends on; None if it may depend on weights, or on code of others."""
    code = {type(part).__module__.partition(".")[0] for part in (*config.stages, *program.modules())}
    if not code <= {"corank", "torch"}:
        return None
    settings = [stage.model_dump(mode="json", by_alias=True, exclude=_NO_GRAPHS) for stage in config.stages]
    facts = [settings, program.shape(), [*map(version, _VERSIONED)], _hash_code()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def _hash_code() -> str:
    """A hash of the code that makes graphs, which may change without the version."""
    models, here = Path(inspect.getfile(StageSettings)).parents[1], Path(__file__).parent
    files = [Path(inspect.getfile(Formula)), *sorted(models.rglob("*.py")), *sorted(here.glob("*graph*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _fits(template: bytes, program: Program, folder: Path) -> bool:
    """Write the graphs from a kept template. Returns whether they compute what the model does."""
    from google.protobuf.message import DecodeError  # as `onnx`

    try:
        _write(template, program, folder)
        return _agrees(program, folder)
    except (DecodeError, LookupError, ValueError, BundleError, *RUNTIME_ERRORS):
        return False


def _write(template: bytes, program: Program, folder: Path) -> None:
    """Write the file of each graph. Raises DecodeError or LookupError for a template that is none of it."""
    from onnx import ModelProto  # slow to import

    model = ModelProto.FromString(template)
    weights = {name: _bytes_of(tensor) for name, tensor in program.weights.items()}
    for name, file in program.files().items():
        graph = cut_graph(model, file, weights)
        _fill_trees(graph, program.trees)
        (folder / name).write_bytes(graph.SerializeToString(deterministic=True))


def _fill_trees(graph: "ModelProto", trees: Mapping[str, Attributes]) -> None:
    """Write trees into the operators that name them. Raises LookupError for a name that there is not."""
    from onnx.helper import make_attribute

    for node in graph.graph.node:
        if node.op_type == OPERATOR:
            (name,) = (attribute.s.decode() for attribute in node.attribute if attribute.name == NAMED)
            del node.attribute[:]
            node.attribute.extend(make_attribute(key, value) for key, value in sorted(trees[name].items()))


def _bytes_of(weight: Tensor) -> bytes:
    """A weight as ONNX stores it, subnormal numbers replaced by 0."""
    if weight.dtype == torch.float32:
        return flush_subnormals(weight.detach().numpy()).tobytes()
    return weight.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


def _agrees(program: Program, folder: Path) -> bool:
    """Whether the files of graphs compute what the model does, of random inputs. Raises as `open_session`."""
    draw = torch.Generator().manual_seed(0)
    given = {
        name: torch.rand(tensor.shape, generator=draw) if tensor.is_floating_point() else tensor
        for name, tensor in program.tensors.items()
    }
    with torch.no_grad():
        expected = program(given)
    for path, file in program.files().items():
        session = open_session(folder / path, threads=1)
        inputs = {own: given[name].numpy() for name, own in file.inputs.items()}
        found = session.run([*file.outputs.values()], inputs)
        for n, values in zip(file.outputs, found, strict=True):
            if not _close(values, expected[n].numpy()):
                return False
    return True


def _close(found: Numbers, expected: Numbers) -> bool:
    if found.shape != expected.shape:
        return False
    bound = AGREEMENT * np.abs(expected[np.isfinite(expected)]).max(initial=0)
    return np.allclose(found, expected, rtol=0, atol=bound, equal_nan=True)


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
        path: the file.
        graph: to be written.
        tensors: by name, examples of the graph's inputs; more are ignored.
    """
    program = Program((), {path.name: FileGraph.of(graph, tensors)})
    _write(_export(program), program, path.parent)


def _export(program: Program) -> bytes:
    """Export all graphs as one ONNX model without weights."""
    shapes: dict[str, dict[int, Any]] = {}
    for n, file in enumerate(program.graphs.values()):
        axes = _axes(n)
        shapes |= {f"{n}/{name}": axes[name] for name in file.tensors}
    # the exporter reports its progress on stdout and in logs, where a user looks for corank's own words
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        _quiet("torch.onnx", "onnxscript", "onnx_ir"),
        without_collection(),  # among all that the exporter makes it takes a fifth of the time
    ):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            (),
            kwargs={"given": program.tensors},
            dynamo=True,
            input_names=[*program.tensors],
            dynamic_shapes={"given": shapes},
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        # optimised without weights, so that nothing depends on them, such as which of two are equal
        weights = [v for name, v in exported.model.graph.initializers.items() if name in program.weights]
        values = [weight.const_value for weight in weights]
        for weight in weights:
            weight.const_value = None
        exported.optimize()
        for weight, value in zip(weights, values, strict=True):
            weight.const_value = value
        model = exported.model_proto
    strip_template(model, program.weights, AXES)
    template: bytes = model.SerializeToString(deterministic=True)
    return template


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
