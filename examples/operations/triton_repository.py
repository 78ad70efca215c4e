"""Write the graphs of a bundle as a model repository of Triton: `python triton_repository.py BUNDLE REPOSITORY`.

A model for each graph, `STAGE_value`, `STAGE_item` or `STAGE_query`, with the bundle's file as its only version. Inputs
are described in docs/bundle-format.md#stages: encoding requests, rows of items, cutting and combining stay with the
caller. Rows of queries and of candidates differ in number, so Triton cannot batch: `max_batch_size` is 0, and a call
has the candidates of as many requests as you like.
"""

import shutil
import sys
from pathlib import Path

import onnxruntime

from corank.bundle.bundle import Bundle

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(int64)": "TYPE_INT64"}


def describe(kind: str, nodes: list[onnxruntime.NodeArg]) -> str:
    """The inputs or outputs of a graph; -1 for a number that varies."""
    lines = [
        f'  {{ name: "{node.name}" data_type: {TYPES[node.type]} '
        f"dims: {[size if isinstance(size, int) else -1 for size in node.shape]} }}"
        for node in nodes
    ]
    return f"{kind} [\n" + ",\n".join(lines) + "\n]\n"


def write_repository(bundle_folder: Path, repository: Path) -> None:
    """Check a bundle and write its graphs; the repository must not exist."""
    bundle = Bundle.open(bundle_folder)
    repository.mkdir(parents=True)
    for graph in sorted(bundle.folder.glob("*.onnx")):
        session = onnxruntime.InferenceSession(graph)
        model = repository / graph.stem.replace(".", "_")
        (model / "1").mkdir(parents=True)
        shutil.copy(graph, model / "1" / "model.onnx")
        (model / "config.pbtxt").write_text(
            f'name: "{model.name}"\nbackend: "onnxruntime"\nmax_batch_size: 0\n'
            f"{describe('input', session.get_inputs())}{describe('output', session.get_outputs())}"
            "instance_group [{ kind: KIND_CPU }]\n"
            f'parameters {{ key: "corank_version" value {{ string_value: "{bundle.manifest.content}" }} }}\n',
            encoding="utf-8",
        )


if __name__ == "__main__":
    write_repository(*map(Path, sys.argv[1:]))
