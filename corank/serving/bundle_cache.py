"""The folder into which bundles of stores are fetched, unless a user names another."""

from pathlib import Path

CACHE = Path.home() / ".cache" / "corank"
