"""Losses of the lab, by the entry point `corank.losses`."""

from corank_lab.losses import (
    arf,
    icc,
    learnt_cascade,
    levels_bce,
    mimic,
    rankflow,
)

__all__ = ["arf", "icc", "learnt_cascade", "levels_bce", "mimic", "rankflow"]
