"""Importers and simulated worlds of the lab, by the entry points `corank.importers` and `corank.worlds`."""
