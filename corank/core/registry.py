"""Registries: parts of one sort by name, those that corank comes with and those of plug-ins alike.

Pydantic is imported where it is used, since `corank --help` imports this module.
"""

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from corank.core.errors import PluginError

T = TypeVar("T")
P = TypeVar("P")

PLUGINS = "CORANK_PLUGINS"
"""The environment variable that names plug-ins, separated by commas, for commands that read no config."""

_NAME = re.compile(r"[a-z][a-z0-9_+]*")
_MODULE = re.compile(r"\w+(\.\w+)*")


class Registry(Generic[T]):
    """Parts of one sort by name.

    A part registers when its module is imported. Three things import modules: the registry itself, those of
    `package`, the parts that corank comes with; installed entry points of `group`; and `load_plugins`.

    Example:
        LOSSES = Registry[type[Loss]]("loss", "corank.losses", "corank.losses", check_loss)

        @LOSSES.register("click")
        class Click(Loss): ...
    """

    def __init__(
        self,
        sort: str,
        group: str,
        package: str,
        check: Callable[[str, Any], None] = lambda name, part: None,
        foreign: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            sort: what a part is called in messages, such as `loss`.
            group: entry points of this group are imported before the first look-up.
            package: imported with all its modules before the first look-up; a module is imported alone.
            check: raises PluginError if a part breaks the protocol of its sort.
            foreign: names that other libraries have for a part → what to write here, for the message.
        """
        self._foreign = foreign or {}
        self.sort, self.group, self.package, self._check = sort, group, package, check
        self._parts: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[P], P]:
        """A decorator that enters a part under a name. Raises PluginError if the name is taken or the part unfit."""

        def enter(part: P) -> P:
            self.add(name, part)
            return part

        return enter

    def add(self, name: str, part: Any) -> None:
        """Enter a part under a name. Raises PluginError if the name is taken or the part unfit."""
        origin = getattr(part, "__module__", type(part).__module__)
        what = f"{origin}: {self.sort} '{name}'"
        if not _NAME.fullmatch(name):
            raise PluginError(f"{what}: a name is lower-case letters, digits, _ and +, a letter first")
        entry = self._parts.get(name)
        if entry is not None and not _same(entry, part):
            raise PluginError(f"{what}: the name is taken by {_identity(entry)}; take another name")
        self._check(what, part)
        self._parts[name] = part

    def __getitem__(self, name: str) -> T:
        """Raises KeyError; `find` says what is known."""
        self._load()
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._parts))

    def parts(self, load: bool = True) -> dict[str, T]:
        """All parts by name, in the order in which they registered; without `load` those registered so far."""
        if load:
            self._load()
        return dict(self._parts)

    def find(self, name: str) -> T:
        """The part of a name. Raises PluginError, which names the nearest known one."""
        if name not in self:
            from corank.core.settings import describe_unknown

            raise PluginError(f"{describe_unknown(name, self, self.sort)}{MISSING_PLUGIN}")
        return self._parts[name]

    def hint(self, name: Any) -> str:
        """What to write in place of a name that another library has for a part; "" if none is known."""
        meant = self._foreign.get(name) if isinstance(name, str) else None
        return f"for {name} write {meant}; " if meant else ""

    def _load(self) -> None:
        if self._loaded:
            return
        from importlib.metadata import entry_points

        self._loaded = True
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
                importlib.import_module(f"{self.package}.{module.name}")
            for entry in entry_points(group=self.group):
                _imported(f"entry point '{entry.name}' of {self.group}", entry.load)
        except BaseException:
            self._loaded = False
            raise


MISSING_PLUGIN = "; if a plug-in has it, name its module under `plugins:` of the config, or with --plugin"


def _same(one: object, other: object) -> bool:
    """Whether a part registers again: a class or function of one name, or an equal object."""
    named = hasattr(one, "__qualname__") and hasattr(other, "__qualname__")
    return _identity(one) == _identity(other) if named else one == other


def _identity(part: object) -> str:
    name = getattr(part, "__qualname__", type(part).__qualname__)
    return f"{getattr(part, '__module__', type(part).__module__)}.{name}"


def load_plugins(modules: Sequence[str], folder: Path | None = None) -> None:
    """Import modules that register parts.

    Args:
        modules: dotted names, from the Python path or from `folder`.
        folder: also searched, after the Python path; usually that of the config.

    Raises PluginError if a module is not there, fails when it is imported, or registers an unfit part.

    Example:
        >>> corank.load_plugins(["my_losses"])
        Traceback (most recent call last):
        corank.core.errors.PluginError: plugins: no module 'my_losses' on the Python path
    """
    if folder is not None and modules and str(folder.absolute()) not in sys.path:
        sys.path.append(str(folder.absolute()))
    for name in modules:
        if not _MODULE.fullmatch(name):
            raise PluginError(f"plugins: expected the dotted name of a module; received {name!r}")
        try:
            exists = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            exists = False
        if not exists:
            where = f" and in {folder}" if folder is not None else ""
            raise PluginError(f"plugins: no module '{name}' on the Python path{where}")
        _imported(f"plugins: '{name}'", partial(importlib.import_module, name))
        _refuse_another(name, folder)


def _refuse_another(name: str, folder: Path | None) -> None:
    """Raise PluginError if a module was imported from elsewhere, though the folder holds one of the name."""
    beside = folder and folder.absolute().joinpath(*name.split(".")).with_suffix(".py")
    loaded = Path(sys.modules[name].__file__ or "")
    if beside and beside.is_file() and not beside.samefile(loaded):
        raise PluginError(f"plugins: '{name}' is {loaded}, and not {beside}; rename one")


def load_environment_plugins() -> None:
    """Import the plug-ins that the environment names, from the Python path or the working directory.

    Every process that reads bundles or opens stores calls this when it starts. Raises PluginError.
    """
    load_plugins([name for name in os.environ.get(PLUGINS, "").split(",") if name], Path.cwd())


def plugin_hint(names: object) -> str:
    """Which of a bundle's plug-ins are not loaded, and how to load them, for an error; empty if all are.

    Args:
        names: plug-ins as a bundle records them. They are compared and printed, never imported.
    """
    recorded = (
        [n for n in names if isinstance(n, str) and _MODULE.fullmatch(n)] if isinstance(names, list) else []
    )
    absent = [name for name in recorded if name not in sys.modules]
    if not absent:
        return ""
    named = ", ".join(f"'{name}'" for name in absent)
    options = " ".join(f"--plugin {name}" for name in absent)
    return f"needs the plug-in{'s' if len(absent) > 1 else ''} {named}: pass {options}"


def _imported(what: str, load: Callable[[], object]) -> None:
    try:
        load()
    except PluginError as error:
        raise PluginError(f"{what}: {error}") from error
    except Exception as error:
        raise PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error


def check_class(what: str, part: Any, *bases: type) -> None:
    """Raise PluginError unless a registered part is a class of some bases that defines all that these leave open."""
    if not (isinstance(part, type) and issubclass(part, bases)):
        named = " or ".join(base.__name__ for base in bases)
        raise PluginError(f"{what}: expected a subclass of {named}; received {part!r}")
    if missing := sorted(getattr(part, "__abstractmethods__", ())):
        raise PluginError(f"{what}: {part.__name__} must define {', '.join(missing)}")


def check_settings_class(what: str, part: Any, bases: tuple[type, ...]) -> None:
    """Raise PluginError unless a registered part is a complete settings class of some bases, chosen by its `kind`."""
    check_class(what, part, *bases)
    names = get_args(part.model_fields["kind"].annotation)
    if not names or f"'{names[0]}'" not in what:
        raise PluginError(f"{what}: {part.__name__} needs a field `kind: Literal[…]` of its registered name")


def by_name(registry: Registry[Any], key: str) -> tuple[Any, ...]:
    """Annotations of a settings field whose type is chosen by a key from a registry of settings classes.

    `Annotated[Loss, *by_name(LOSSES, "kind")]` reads `{kind: click, …}` as the class registered as `click`, and
    dumps every field of that class.
    """
    from pydantic import SerializeAsAny, WrapValidator
    from pydantic_core import PydanticCustomError

    from corank.core.settings import describe_unknown

    def read(value: Any, _: Any) -> Any:
        if any(type(value) is registry[name] for name in registry):
            return value  # built in code, and checked then
        if not isinstance(value, dict):
            raise PydanticCustomError("mapping", f"expected a mapping with the key '{key}'")
        if key not in value:
            known = ", ".join(registry)
            raise PydanticCustomError("value_error", "{m}", {"m": f"'{key}' is required, one of {known}"})
        name = value[key]
        if not isinstance(name, str) or name not in registry:
            raise PydanticCustomError(
                "value_error",
                "{m}",
                {"m": f"{registry.hint(name)}{describe_unknown(name, registry, key)}{MISSING_PLUGIN}"},
            )
        return registry[name].model_validate(value)

    return (WrapValidator(read), SerializeAsAny())  # type: ignore[type-arg]
