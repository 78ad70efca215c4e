"""A device of one's own: tensors of it compute on the processor, and refuse to meet tensors of the processor.

To torch they are tensors of a kind of device that this build of torch has no operations for; each holds its numbers,
and this kit computes with them. So code meets here what it meets on a GPU: operations that mix devices fail, and those
that want memory of the processor. Numbers are those of the processor, to the bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from corank.training import trainer

DEVICE = torch.device("lazy")
"""Without a number, as `cuda` is; its tensors are on number 0."""
_ATEN = torch.ops.aten
COPIES = {_ATEN.copy_.default, _ATEN._to_copy.default}
"""Operations that may read of one device and write to another."""
INDEXING = {
    _ATEN.index.Tensor,
    _ATEN.index_put_.default,
    _ATEN.index_put.default,
    _ATEN._index_put_impl_.default,
}
"""Operations whose indices may be on the processor if what is indexed is on the device."""


class MarkedTensor(Tensor):
    """A tensor of the device."""

    held: Tensor
    """Its numbers, on the processor."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "MarkedTensor":
        """Mark a tensor, whose memory it shares."""
        strides = held.stride() if held.layout == torch.strided else None
        made: MarkedTensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=strides,
            storage_offset=held.storage_offset() if strides is not None else None,
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(DEVICE.type, 0),
        )
        made.held = held
        return made

    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """Its numbers; torch's own refuses tensors that hold others."""
        return self.held.tolist()

    def new(self, *given: Any) -> Tensor:  # type: ignore[override]
        """A sparse tensor of indices, values and a size, as torch's SparseAdam makes it."""
        return torch.sparse_coo_tensor(*given, check_invariants=False)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute on the processor."""
        return compute(func, args, kwargs or {})


class MarkedDevice(TorchDispatchMode):
    """Lets tensors be made on the device, and be copied to it; counts the operations there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the processor, marked if an operand or the wanted device is."""
        self.operations += 1
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation. Raises RuntimeError if its tensors are of two devices."""
    indexes = func in INDEXING and isinstance(args[0], MarkedTensor)
    compared = [arg for n, arg in enumerate(args) if n != 1] if indexes else args
    given = [x for x in tree_leaves((compared, kwargs)) if isinstance(x, Tensor)]
    marked = [isinstance(x, MarkedTensor) for x in given]
    strangers = [tuple(x.shape) for x in given if not isinstance(x, MarkedTensor) and x.dim()]
    if any(marked) and strangers and func not in COPIES:
        raise RuntimeError(f"{func} mixes tensors of the device and of the processor: {strangers}")
    target = kwargs.get("device")
    on_device = any(marked) if target is None else torch.device(target).type == DEVICE.type
    if func is _ATEN.copy_.default:
        on_device = marked[0]
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    operands: dict[int, Tensor] = {}

    def take(x: Any) -> Any:
        if not isinstance(x, MarkedTensor):
            return x
        operands[id(x.held)] = x
        return x.held

    result = func(*tree_map(take, args), **tree_map(take, kwargs))
    if not on_device:
        return result

    def give(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        same = operands.get(id(x))  # written in place
        return MarkedTensor(x) if same is None else same

    return tree_map(give, result)


@contextmanager
def marked_device() -> Iterator[MarkedDevice]:
    """Let trainings run on the device, by this thread."""
    lifts = torch._C._only_lift_cpu_tensors()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, MarkedDevice() as mode:
        patch.setattr(trainer, "device", lambda: DEVICE)
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [DEVICE.type])
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
