"""Precision by what the processor can do: in a process that is limited to AVX2, whatever this machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

pytestmark = [pytest.mark.slow, pytest.mark.precision]


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=os.environ | AVX2, capture_output=True, text=True
    )


def test_bf16_trains_without_avx_512_and_is_said_to_be_slow(small_world: Path, tmp_path: Path) -> None:
    changes = ["--set", "train.precision=bf16", "--set", "train.epochs=1"]
    trained = run_python(
        "-m", "corank", "train", small_world / "config.yaml", "--run", tmp_path / "run", *changes
    )
    assert trained.returncode == 0, trained.stderr
    assert "warning: train.precision: this processor has no instructions for bf16" in trained.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_auto_is_fp32_without_avx_512() -> None:
    code = "from corank.training.trainer import *; print(precision('auto', device()), precision('bf16', device()))"
    assert run_python("-c", code).stdout.split() == ["torch.float32", "torch.bfloat16"]
