"""The version of corank."""

from functools import cache


@cache
def corank_version() -> str:
    """The installed version, such as `0.1.0`."""
    from importlib.metadata import version  # slow to import

    return version("corank")
