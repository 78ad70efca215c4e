"""ONNX files → sessions. A graph holds its weights itself, and has the inputs and outputs that its stage needs.

References to other files are looked for without the package `onnx`, which a service does not load. An ONNX file is a
protobuf message: fields, each a key (number and wire type) and a value. Only the fields that lead to tensors are
followed, by their numbers in onnx.proto.

Letters: n rows of any number.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from corank.core.errors import BundleError

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""Wire types."""
_INNER: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message → field → the message that it holds."""
_EXTERNAL_DATA, _DATA_LOCATION, _OPERATOR = 13, 14, 4
_COMPILED = memoryview(b"EPContext")
"""An operator that holds, or names a file of, what a compiler made of a graph."""
_RUNTIME_FORMAT = b"ORTM"
"""Marks, from byte 4 on, the runtime's own format, which is read before ONNX is tried."""


def refuse_references(model: bytes) -> None:
    """Raise ValueError if an ONNX model reads other files, or is no ONNX model."""
    if model[4:8] == _RUNTIME_FORMAT:
        raise ValueError("it is of the runtime's own format, not ONNX")
    pending = [("model", memoryview(model))]
    while pending:
        kind, message = pending.pop()
        for number, value in _fields(message):
            if isinstance(value, memoryview) and (inner := _INNER[kind].get(number)):
                pending.append((inner, value))
            elif kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
                raise ValueError("a tensor of it lies in another file")
            elif kind == "node" and number == _OPERATOR and value == _COMPILED:
                raise ValueError("it holds what a compiler made of a graph")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number, and value of a varint or of bytes; 0 for numbers of a fixed width."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = (key & 0xFFFFFFFF) >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {_EIGHT: 8, _FOUR: 4}.get(wire)
        if wire == _BYTES:
            size, at = _varint(message, at)
        if size is None or size > len(message) - at:
            raise ValueError("no ONNX: a field of it is cut short, or of an unknown type")
        yield number, message[at : at + size] if wire == _BYTES else 0
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and where it ends."""
    value = 0
    for n, byte in enumerate(message[at : at + 10]):
        value |= (byte & 127) << 7 * n
        if byte < 128:
            return value & (1 << 64) - 1, at + n + 1
    raise ValueError("no ONNX: a number of it is cut short")


RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error for error in vars(runtime).values() if isinstance(error, type) and issubclass(error, Exception)
)
"""The errors of onnxruntime; they share no base of their own."""
Shape = tuple[int | str | None, ...]
"""The shape of a tensor of float32, None for n; another type stands first, such as `"double"` or `"int64"`."""
Shapes = Mapping[str, Shape]
"""By name the shape of a tensor."""

_ENTRIES: dict[str, str] = {}
"""Options of sessions, by the runtime's names."""


def flush_process_subnormals() -> None:
    """Have subnormal numbers count as zeros in this process, which opens no session before: a graph may compute some.

    The runtime sets the processor's mode for the thread that opens the first session, and the threads which that one
    starts have it, too. All else that runs there has it: this is for a process that does nothing but serve.
    """
    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)  # which would warn when first called in that mode
    _ENTRIES["session.set_denormal_as_zero"] = "1"


def open_session(
    path: Path,
    inputs: Shapes | None = None,
    outputs: Sequence[Shape] | None = None,
    threads: int = 0,
    optional: Collection[str] = (),
) -> onnxruntime.InferenceSession:
    """Open a graph.

    Args:
        path: the file.
        inputs: those that it must have; any if None.
        outputs: the shapes of its outputs; any if None.
        threads: that it runs on; 0 for a thread a core.
        optional: the names of inputs that it may lack.

    Raises:
        BundleError: the runtime cannot read it, it refers to other files, has other inputs or outputs, or fails on a
            trial.
    """
    remedy = "export the bundle again"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    for key, value in _ENTRIES.items():
        options.add_session_config_entry(key, value)
    try:
        raw = path.read_bytes()
        refuse_references(raw)
        # from bytes: a session without a path cannot read files next to it
        session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}: refused as a graph: {error}; {remedy}") from None
    except RUNTIME_ERRORS as error:
        raise BundleError(f"{path}: no graph that the runtime reads ({error}); {remedy}") from None
    names = {node.name: _shape(node) for node in session.get_inputs()}
    expected = {n: _text(shape) for n, shape in (inputs or {}).items() if n in names or n not in optional}
    if inputs is not None and names != expected:
        raise BundleError(f"{path}: expected the inputs {expected}; found {names}; {remedy}")
    shapes, wanted = [_shape(node) for node in session.get_outputs()], [*map(_text, outputs or ())]
    if outputs is not None and shapes != wanted:
        raise BundleError(f"{path}: expected the outputs {wanted}; found {shapes}; {remedy}")
    try:
        _try_out(session)
    except RUNTIME_ERRORS as error:
        raise BundleError(f"{path}: a graph that fails when it is run ({error}); {remedy}") from None
    return session


def _try_out(session: onnxruntime.InferenceSession) -> None:
    """Run a graph on two rows of ones. Raises one of RUNTIME_ERRORS for one that loads but cannot be computed."""
    sizes = {
        node.name: [size if isinstance(size, int) else 2 for size in node.shape]
        for node in session.get_inputs()
    }
    whole = {node.name for node in session.get_inputs() if node.type == "tensor(int64)"}  # rows of others
    session.run(
        None,
        {
            name: np.zeros(shape, dtype=np.int64) if name in whole else np.ones(shape, dtype=np.float32)
            for name, shape in sizes.items()
        },
    )


def _shape(tensor: Any) -> str:
    sizes = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return _text(sizes if tensor.type == "tensor(float)" else (tensor.type[7:-1], *sizes))


def _text(shape: Shape) -> str:
    return f"({', '.join('n' if size is None else str(size) for size in shape)})"
