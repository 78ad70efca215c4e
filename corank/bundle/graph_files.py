"""ONNX files → sessions. A graph holds its weights itself, and has the inputs and outputs that its stage needs.

Letters: n rows of any number.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from corank.bundle.checks.onnx_wire import refuse_references
from corank.core.errors import BundleError

RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error for error in vars(runtime).values() if isinstance(error, type) and issubclass(error, Exception)
)
"""The errors of onnxruntime; they share no base of their own."""
Shape = tuple[int | str | None, ...]
"""The shape of a tensor of float32, None for n; `"double"` stands first in that of float64."""
Shapes = Mapping[str, Shape]
"""By name the shape of a tensor."""


def open_session(
    path: Path,
    inputs: Shapes | None = None,
    outputs: Sequence[Shape] | None = None,
    options: onnxruntime.SessionOptions | None = None,
    optional: Collection[str] = (),
) -> onnxruntime.InferenceSession:
    """Open a graph.

    Args:
        path: the file.
        inputs: those that it must have; any if None.
        outputs: the shapes of its outputs; any if None.
        options: of the session.
        optional: the names of inputs that it may lack.

    Raises:
        BundleError: the runtime cannot read it, it refers to other files, has other inputs or outputs, or fails on a
            trial.
    """
    try:
        raw = path.read_bytes()
        refuse_references(raw)
        # from bytes: a session without a path cannot read files next to it
        session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}: refused as a graph: {error}; export the bundle again") from None
    except RUNTIME_ERRORS as error:
        raise BundleError(
            f"{path}: no graph that the runtime reads ({error}); export the bundle again"
        ) from None
    input_shapes = {node.name: _shape(node) for node in session.get_inputs()}
    expected = {
        n: _text(shape) for n, shape in (inputs or {}).items() if n in input_shapes or n not in optional
    }
    if inputs is not None and input_shapes != expected:
        raise BundleError(
            f"{path}: expected the inputs {expected}; found {input_shapes}; export the bundle again"
        )
    output_shapes = [_shape(node) for node in session.get_outputs()]
    if outputs is not None and output_shapes != list(map(_text, outputs)):
        wanted = list(map(_text, outputs))
        raise BundleError(
            f"{path}: expected the outputs {wanted}; found {output_shapes}; export the bundle again"
        )
    try:
        _try_out(session)
    except RUNTIME_ERRORS as error:
        raise BundleError(
            f"{path}: a graph that fails when it is run ({error}); export the bundle again"
        ) from None
    return session


def _try_out(session: onnxruntime.InferenceSession) -> None:
    """Run a graph on two rows of ones. Raises one of RUNTIME_ERRORS for one that loads but cannot be computed."""
    sizes = {
        node.name: [size if isinstance(size, int) else 2 for size in node.shape]
        for node in session.get_inputs()
        if node.type == "tensor(float)"
    }
    session.run(None, {name: np.ones(shape, dtype=np.float32) for name, shape in sizes.items()})


def _shape(tensor: Any) -> str:
    sizes = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return _text(sizes if tensor.type == "tensor(float)" else (tensor.type[7:-1], *sizes))


def _text(shape: Shape) -> str:
    return f"({', '.join('n' if size is None else str(size) for size in shape)})"
