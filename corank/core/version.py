"""The version of corank."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@cache
def corank_version() -> str:
    """The installed version, such as `0.1.0`."""
    from importlib.metadata import version  # slow to import

    return version("corank")


def register_version(registry: "CollectorRegistry") -> None:
    """Add the metric `corank_build_info{version}`, always 1, by which Prometheus tells what runs where."""
    from prometheus_client import Info

    Info("corank_build", "1; the label is the version of corank", registry=registry).info(
        {"version": corank_version()}
    )
