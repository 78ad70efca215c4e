"""Templates: all graphs of a bundle as one ONNX model without weights, from which its files are cut and filled.

A template depends on the stages' settings and widths, not on its weights, and takes seconds to export. Those of earlier
exports are kept beside the run, where the one that continues it finds them, and in the user's cache:

    RUN/templates/<key>      the SHA-256 of key and template, 32 bytes, then the template
    CACHE/templates/<key>    the same

The key is a hash of all that the template depends on. A file is written whole or not at all, and is but a copy of what
can be exported again: one that cannot be read, written or believed is no error.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from corank.core.artifact_cache import CACHE
from corank.core.files import CHECKSUM, make_private_folder, open_regular_file, unseal, write_sealed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

FOLDER = "templates"
"""In a run's folder, and in the user's cache."""
BOUND = 32 << 20
"""Bytes of all templates that a folder keeps; those that were not used for longest go first."""


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
class TemplateCache:
    """A folder of templates, or of other files that are kept as they are, of at most `bound` bytes; None keeps none.

    Example:
        TemplateCache.of_environment().read(key)
    """

    folder: Path | None
    bound: int = BOUND

    @classmethod
    def of_environment(cls, name: str = "templates") -> Self:
        """That of a name in CORANK_CACHE, or in the user's cache as XDG_CACHE_HOME has it, or in ~/.cache."""
        if named := os.environ.get(CACHE):
            return cls(Path(named) / name)
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:  # a relative one is to be ignored (XDG Base Directory Specification)
            base = base if base.is_absolute() else Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return cls(None)
        return cls(base / "corank" / name)

    def read(self, key: str) -> bytes | None:
        """The template of a key; None if there is none that this user wrote, whole and unchanged."""
        if self.folder is None:
            return None
        try:
            with open_regular_file(self.folder, key) as file:
                facts = os.fstat(file.fileno())
                raw = file.read() if facts.st_uid == os.geteuid() and facts.st_size <= self.bound else b""
            os.utime(self.folder / key)  # as used now
        except OSError:
            return None
        template = unseal(key, raw)
        return None if template is None else bytes(template)

    def keep(self, key: str, template: bytes) -> None:
        """Keep a template, if the folder can be written and has room for it."""
        size = CHECKSUM + len(template)
        if self.folder is None or size > self.bound:
            return
        with suppress(OSError):
            make_private_folder(self.folder)
            self._make_room(size)
            write_sealed(self.folder / key, key, template)

    def _make_room(self, needed: int) -> None:
        """Remove those that were not used for longest, until there is room. Raises OSError."""
        assert self.folder is not None
        files = []
        for path in self.folder.glob("[0-9a-f]*"):
            with suppress(FileNotFoundError):  # another process made room, too
                facts = path.stat()
                files.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + needed <= self.bound:
                return
            path.unlink(missing_ok=True)
            total -= size


@dataclass(frozen=True)
class Templates:
    """Where an export looks for a template, one place after the other, and keeps it.

    Example:
        run.templates.read(key)
    """

    beside: TemplateCache = TemplateCache(None)
    """In the folder of the run that is exported."""
    before: TemplateCache = TemplateCache(None)
    """In that of the run that it continues."""
    cache: TemplateCache = field(default_factory=TemplateCache.of_environment)
    """Of the user."""

    @classmethod
    def of_run(cls, folder: Path, before: Path | None) -> Self:
        """Those of a run in a folder, which continues another."""
        return cls(TemplateCache(folder / FOLDER), TemplateCache(before and before / FOLDER))

    def read(self, key: str) -> bytes | None:
        """The template of a key, which is beside the run then; None if there is none."""
        for place in (self.beside, self.before, self.cache):
            if (template := place.read(key)) is not None:
                if place is not self.beside:
                    self.beside.keep(key, template)  # for the run that continues it
                return template
        return None

    def keep(self, key: str, template: bytes) -> None:
        """Keep a template that was just exported, beside the run and for all others of the user."""
        self.beside.keep(key, template)
        self.cache.keep(key, template)
