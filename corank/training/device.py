"""Where and how a training computes: device, precision of its products, reuse of its memory."""

import ctypes
import sys

import torch

from corank.models.layers import has_fused_relu


def device() -> torch.device:
    """The GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def multiplies_bf16(on: torch.device) -> bool:
    """Whether a device multiplies in bf16 by instructions of its own; elsewhere bf16 is emulated, slower than fp32."""
    if on.type == "cuda":
        return True
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return native and has_fused_relu()


def precision(setting: str, on: torch.device) -> torch.dtype:
    """The dtype of `train.precision`: for `auto`, bf16 if the device multiplies in it, else fp32."""
    use_bf16 = setting == "bf16" or (setting == "auto" and multiplies_bf16(on))
    return torch.bfloat16 if use_bf16 else torch.float32


def precision_warnings(setting: str, on: torch.device) -> list[str]:
    """Say that `train.precision: bf16` is slow on a device that does not multiply in bf16."""
    if setting != "bf16" or multiplies_bf16(on):
        return []
    return [
        "train.precision: this processor has no instructions for bf16, which is emulated and slower than fp32; "
        "take auto or fp32"
    ]


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for reuse: every step or batch frees and allocates the same sizes."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
