"""Templates: all graphs of a stage as one ONNX model without weights, from which its files are cut and filled.

A template depends on a stage's settings and widths, not on its weights, and takes seconds to export. Those of earlier
exports are kept in the user's cache:

    CACHE/templates/<key>    the SHA-256 of key and template, 32 bytes, then the template

The key is a hash of all that the template depends on. A file is written whole or not at all, and is but a copy of what
can be exported again: one that cannot be read, written or believed is no error.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from corank.core.artifact_cache import CACHE
from corank.core.files import atomic_file, make_private_folder, open_regular_file

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

BOUND = 32 << 20
"""Bytes of all templates that are kept; those that were not used for longest go first."""
_CHECKSUM = 32
"""Bytes."""


@dataclass(frozen=True)
class GraphFile:
    """What one of the files has that are cut out of a template."""

    inputs: Sequence[str]
    outputs: Mapping[int, str]
    """By position among the outputs of the template the name in the file."""


def cut_graph(template: "ModelProto", file: GraphFile, weights: Mapping[str, bytes]) -> "ModelProto":
    """Cut the graph of a file out of a template, and write the weights in.

    Args:
        template: of the stage.
        file: what it has; an input that nothing reads is one, too.
        weights: all of the stage, by the names of initialisers.

    Raises IndexError or KeyError if the template is not the stage's.
    """
    from onnx import ModelProto  # by exports alone

    graph = template.graph
    names = {graph.output[n].name: name for n, name in file.outputs.items()}
    inputs = {value.name: value for value in graph.input}
    nodes = _needed(graph, names)
    read = {name for node in nodes for inner in _within(node) for name in inner.input}
    made = {name for node in nodes for name in node.output} - names.keys()

    cut = ModelProto()
    cut.CopyFrom(template)
    for part in ("node", "input", "output", "initializer", "value_info"):
        cut.graph.ClearField(part)
    cut.graph.node.extend(nodes)
    for node in (inner for outer in cut.graph.node for inner in _within(outer)):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    cut.graph.input.extend(inputs[name] for name in file.inputs)
    for n, name in file.outputs.items():
        cut.graph.output.add().CopyFrom(graph.output[n])
        cut.graph.output[-1].name = name
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


def strip_template(model: "ModelProto", weights: Collection[str]) -> None:
    """Take weights out of a model, and what the exporter notes of where on this machine the code lies."""
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("raw_data")
    model.ClearField("metadata_props")
    functions = [node for function in model.functions for node in function.node]
    named = (model.graph, *model.functions, *model.graph.input, *model.graph.output, *model.graph.value_info)
    nodes = (inner for node in (*model.graph.node, *functions) for inner in _within(node))
    for part in (*named, *model.graph.initializer, *nodes):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@dataclass(frozen=True)
class TemplateCache:
    """The folder of the templates that are kept, of at most `bound` bytes; of None, none are.

    Example:
        TemplateCache.of_environment().read(key)
    """

    folder: Path | None
    bound: int = BOUND

    @classmethod
    def of_environment(cls) -> Self:
        """That in CORANK_CACHE, or in the user's cache as XDG_CACHE_HOME has it, or in ~/.cache."""
        if named := os.environ.get(CACHE):
            return cls(Path(named) / "templates")
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:  # a relative one is to be ignored (XDG Base Directory Specification)
            base = base if base.is_absolute() else Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return cls(None)
        return cls(base / "corank" / "templates")

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
        checksum, template = raw[:_CHECKSUM], raw[_CHECKSUM:]
        return template if checksum == _digest(key, template) else None

    def keep(self, key: str, template: bytes) -> None:
        """Keep a template, if the folder can be written and has room for it."""
        size = _CHECKSUM + len(template)
        if self.folder is None or size > self.bound:
            return
        with suppress(OSError):
            make_private_folder(self.folder)
            self._make_room(size)
            with atomic_file(self.folder / key) as partial:
                partial.write_bytes(_digest(key, template) + template)

    def remove(self, key: str) -> None:
        """Keep the template of a key no longer."""
        if self.folder is not None:
            with suppress(OSError):
                (self.folder / key).unlink()

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


def _digest(key: str, template: bytes) -> bytes:
    return hashlib.sha256(key.encode() + template).digest()
