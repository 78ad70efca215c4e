"""Where and how a training computes: device, precision of its products, reuse of its memory."""

import ctypes
import sys

import torch


def device() -> torch.device:
    """The GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(setting: str, on: torch.device) -> torch.dtype:
    """The dtype of `train.precision`: for `auto`, bf16 if the processor multiplies it natively, else fp32."""
    native = on.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if setting == "bf16" or (setting == "auto" and native) else torch.float32


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for reuse: every step or batch frees and allocates the same sizes."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
