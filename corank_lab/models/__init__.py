"""Stage models of the lab, by the entry point `corank.stages`."""

from corank_lab.models import mlp, towers

__all__ = ["mlp", "towers"]
