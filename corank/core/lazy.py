"""Modules that are imported when they are first used."""

import importlib
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    """Imports the module of its name at each look-up of a name, which is a look-up once it is loaded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def lazy(name: str) -> Any:
    """A module that is imported when a name of it is first used.

    So settings and formula share a file, and reading a config loads no torch. Unlike `importlib.util.LazyLoader` it
    enters nothing into `sys.modules` before, and a module that is not installed fails when it is used.

    Example:
        >>> math = lazy("math")
        >>> math.floor(2.5)
        2
    """
    return _LazyModule(name)
