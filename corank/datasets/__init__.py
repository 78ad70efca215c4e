"""Importers of public logs, and simulated worlds."""
