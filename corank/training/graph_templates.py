"""Templates: all graphs of a bundle as one ONNX model without weights, from which its files are cut and filled.

A template depends on the stages' settings and widths, not on its weights, and takes seconds to export. Those of earlier
exports are kept in the run's folder, where the one that continues it finds them, and in the user's cache:

    RUN/templates/<key>
    CACHE/templates/<key>

The key is a hash of all that the template depends on.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from corank.core.kept_files import NOWHERE, KeptFiles

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

FOLDER = "templates"
"""In a run's folder, and in the user's cache."""


@dataclass(frozen=True)
class GraphFile:
    """What one of the files has that are cut out of a template."""

    inputs: Mapping[str, str]
    """By name in the template the name in the file; one that nothing reads is an input, too."""
    outputs: Mapping[int, str]
    """By position among the outputs of the template the name in the file."""


def cut_graph(template: "ModelProto", file: GraphFile, weights: Mapping[str, bytes]) -> "ModelProto":
    """Cut the graph of a file out of a template, and write the weights in.

    Args:
        template: of all graphs.
        file: what it has.
        weights: all, by the names of initialisers.

    Raises IndexError or KeyError if the template is of other graphs.
    """
    from onnx import ModelProto  # by exports alone

    graph = template.graph
    outputs = {graph.output[n].name: name for n, name in file.outputs.items()}
    names = {**file.inputs, **outputs}
    inputs = {value.name: value for value in graph.input}
    nodes = _needed(graph, outputs)
    read = {name for node in nodes for inner in _within(node) for name in inner.input}
    made = {name for node in nodes for name in node.output} - outputs.keys()

    cut = ModelProto()
    cut.CopyFrom(template)
    for part in ("node", "input", "output", "initializer", "value_info"):
        cut.graph.ClearField(part)
    cut.graph.node.extend(nodes)
    for node in (inner for outer in cut.graph.node for inner in _within(outer)):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    cut.graph.input.extend(inputs[name] for name in file.inputs)
    cut.graph.output.extend(graph.output[n] for n in file.outputs)
    for value in (*cut.graph.input, *cut.graph.output):
        value.name = names[value.name]
    cut.graph.value_info.extend(value for value in graph.value_info if value.name in made)
    cut.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    for tensor in cut.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name]
    return cut


def _needed(graph: "GraphProto", outputs: Mapping[str, str]) -> list["NodeProto"]:
    """The nodes that outputs need, in their order."""
    wanted, needed = set(outputs), []
    for node in reversed(graph.node):  # none comes before those that it reads
        if not wanted.isdisjoint(node.output):
            needed.append(node)
            wanted.update(name for inner in _within(node) for name in inner.input)
    return needed[::-1]


def _within(node: "NodeProto") -> Iterator["NodeProto"]:
    """A node, and all of the graphs that it holds, which may read what is outside."""
    yield node
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _within(inner)


def strip_template(model: "ModelProto", weights: Collection[str], axes: Collection[str]) -> None:
    """Take weights out of a model, numbers out of the names of axes, and what is noted of where the code lies.

    Args:
        model: all graphs.
        weights: the names of initialisers.
        axes: the names of axes, to which `_N` is added in the N-th graph.
    """
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("raw_data")
    model.ClearField("metadata_props")
    functions = [node for function in model.functions for node in function.node]
    numbered = re.compile(rf"\b({'|'.join(axes)})_\d+\b")
    for dimension in (d for value in _values(model.graph) for d in value.type.tensor_type.shape.dim):
        if dimension.dim_param:
            dimension.dim_param = numbered.sub(r"\1", dimension.dim_param)
    named = (model.graph, *model.functions, *_values(model.graph))
    nodes = (inner for node in (*model.graph.node, *functions) for inner in _within(node))
    for part in (*named, *model.graph.initializer, *nodes):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _values(graph: "GraphProto") -> Iterator["ValueInfoProto"]:
    yield from (*graph.input, *graph.output, *graph.value_info)


@dataclass(frozen=True)
class Templates:
    """Where an export looks for a template, one place after the other, and keeps it.

    Example:
        run.templates.read(key)
    """

    own: KeptFiles = NOWHERE
    """In the folder of the run that is exported."""
    before: KeptFiles = NOWHERE
    """In that of the run that it continues."""
    cache: KeptFiles = field(default_factory=lambda: KeptFiles.of_user(FOLDER))
    """Of the user."""

    @classmethod
    def of_run(cls, folder: Path, before: Path | None) -> Self:
        """Those of a run in a folder, which continues another."""
        return cls(KeptFiles(folder / FOLDER), KeptFiles(before and before / FOLDER))

    def read(self, key: str) -> bytes | None:
        """The template of a key, which is in the run's folder then; None if there is none."""
        for place in (self.own, self.before, self.cache):
            if (template := place.read(key)) is not None:
                if place is not self.own:
                    self.own.keep(key, template)  # for the run that continues it
                return template
        return None

    def keep(self, key: str, template: bytes) -> None:
        """Keep a template that was just exported, in the run's folder and for all others of the user."""
        self.own.keep(key, template)
        self.cache.keep(key, template)
