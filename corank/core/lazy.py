"""Modules that are imported when they are first used, and what is made of them then.

The parts of the installation that only some commands need, which pip installs by name: the extras.

`pip install .` in a checkout brings funnel, stores and service. Each of the other parts is an extra of pyproject.toml.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from corank.core.errors import MissingExtraError


@contextmanager
def without_collection() -> Iterator[None]:
    """Look for no garbage in the block: among much that lives on, such as modules, it takes a sixth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _import(name: str) -> ModuleType:
    if name in sys.modules:  # or in another thread, which is waited for
        return import_module(name)
    with without_collection():
        return import_module(name)


class _LazyModule(ModuleType):
    """Imports the module of its name at each look-up of a name, which is a look-up once it is loaded."""

    def __init__(self, name: str, what: str | None) -> None:
        super().__init__(name)
        self.__dict__["what"] = what

    def __getattr__(self, name: str) -> Any:
        what = self.__dict__["what"]
        module = _import(self.__name__) if what is None else require(self.__name__, what)
        return getattr(module, name)


def lazy(name: str, what: str | None = None) -> Any:
    """A module that is imported when a name of it is first used.

    So settings and formula share a file, and reading a config loads no torch. Unlike `importlib.util.LazyLoader` it
    enters nothing into `sys.modules` before, and a module that is not installed fails when it is used.

    Args:
        name: of the module.
        what: what needs it, if an extra brings it: a look-up raises MissingExtraError then, as `require` does.

    Example:
        >>> math = lazy("math")
        >>> math.floor(2.5)
        2
    """
    return _LazyModule(name, what)


def autograd_function(steps: type[Any]) -> Callable[..., Any]:
    """A function with a backward of its own, as `torch.autograd.Function.apply`; made when it is first called.

    Args:
        steps: a class that derives from nothing, so that its module loads no torch, with the static methods
            `forward(ctx, …)` and `backward(ctx, gradient)`. The backward has no gradient itself.
    """

    @cache
    def make() -> Callable[..., Any]:
        function = lazy("torch.autograd.function")
        backward = function.once_differentiable(steps.backward)
        methods = {"forward": staticmethod(steps.forward), "backward": staticmethod(backward)}
        made: Callable[..., Any] = type(function.Function)(
            steps.__name__, (function.Function,), methods
        ).apply
        return made

    return lambda *given: make()(*given)


EXTRA_OF = {
    "confluent_kafka": "kafka",
    "cryptography": "sign",
    "deltalake": "delta",
    "fsspec": "objects",
    "lightgbm": "trees",
    "matplotlib": "train",
    "mlflow": "mlflow",
    "obstore": "objects",
    "onnx": "train",
    "onnxscript": "train",
    "opentelemetry": "otel",
    "optuna": "tune",
    "pyiceberg": "iceberg",
    "ray": "ray",
    "redis": "redis",
    "safetensors": "train",
    "scipy": "train",
    "tensorboard": "train",
    "torch": "train",
    "wandb": "wandb",
}
"""For each module that no base installation has: the extra that brings it."""


def require(module: str, what: str = "this") -> Any:
    """Import a module that an extra brings, or a part of it.

    Args:
        module: one of `EXTRA_OF`, or of a plug-in's own; or a submodule.
        what: what needs it, as the error names it, such as "corank tune".

    Raises:
        MissingExtraError: it is not installed.

    Example:
        >>> require("torch.absent.part", "corank train")
        Traceback (most recent call last):
            ...
        corank.core.errors.MissingExtraError: corank train needs torch; in corank's checkout: pip install '.[train]'
    """
    try:
        return _import(module)
    except ModuleNotFoundError as error:
        missing = _top(error.name or module)
        if missing != _top(module):
            raise  # the package is there, and lacks a part of its own
        raise _missing(what, missing) from None


@contextmanager
def name_missing_extra(what: str) -> Iterator[None]:
    """Raise MissingExtraError, which names `what`, if the block, of imports, lacks a module that an extra brings."""
    try:
        with without_collection():
            yield
    except ModuleNotFoundError as error:
        missing = explain_missing(error, what)
        if missing is None:
            raise
        raise missing from None


def explain_missing(error: Exception, what: str) -> MissingExtraError | None:
    """Turn the error of an import into the one that names the extra; None if no extra brings what is missing."""
    missing = _top(error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return _missing(what, missing) if missing in EXTRA_OF else None


def _top(module: str) -> str:
    return module.partition(".")[0]


def _missing(what: str, module: str) -> MissingExtraError:
    if module not in EXTRA_OF:
        return MissingExtraError(f"{what} needs {module}; install it by pip install {module}")
    # by a path: until there is a package of that name, an index may have somebody else's
    return MissingExtraError(
        f"{what} needs {module}; in corank's checkout: pip install '.[{EXTRA_OF[module]}]'"
    )
