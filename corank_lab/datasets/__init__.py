"""Importers and simulated worlds of the lab, by the entry points `corank.importers` and `corank.worlds`."""

from corank_lab.datasets import ebnerd, mind, news, obd, recflow, recflow_world

__all__ = ["ebnerd", "mind", "news", "obd", "recflow", "recflow_world"]
