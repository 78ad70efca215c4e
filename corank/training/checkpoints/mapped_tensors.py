"""Tensors of an open safetensors file, mapped into memory: what is not read takes none."""

from typing import BinaryIO

from safetensors import safe_open
from torch import Tensor


def map_tensors(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map the tensors of an open file, and read the texts of its header. What is written to them stays in memory.

    They stay what they are if the file is replaced or removed by another. Raises OSError, SafetensorError.
    """
    # by its descriptor: the reader opens a path several times, and a training may replace the file in between
    with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as opened:
        names = opened.keys()
        return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
