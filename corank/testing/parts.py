"""Parts registered in one test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from corank.core.registry import Registry


def unregister(registry: Registry[Any], *names: str) -> None:
    """Take out parts, such as those that a module has entered when the file of a test imported it."""
    for name in names:
        registry._parts.pop(name, None)


@contextmanager
def registered(registry: Registry[Any], **parts: Any) -> Iterator[None]:
    """Enter parts under names for a block, or for a test if a fixture has the block; forget all that it registers.

    Raises PluginError if a name is taken or a part unfit.

    Example:
        with registered(LOSSES, margin=MarginLoss):
            corank.train("config.yaml", ["losses.0={kind: margin, stage: rank}"])
    """
    before = registry.parts()
    try:
        for name, part in parts.items():
            registry.add(name, part)
        yield
    finally:
        registry._parts.clear()
        registry._parts.update(before)
