"""Packages that add public names and commands to `corank`: its own others, and those of strangers.

A package is found by an entry point of the group `corank.packages`, which names a `Package`. So `corank` imports none
of them, and each may be absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from corank.core.errors import PluginError


@dataclass(frozen=True)
class Package:
    """What a package adds.

    Example:
        >>> Package({"shop_tools": "audit"}, {"Shop": {"audit": "shop_tools.audit"}}).modules
        {'audit': 'shop_tools'}
    """

    names: Mapping[str, str] = field(default_factory=dict)
    """By module, its public names, with spaces between: `corank.NAME` is each of them."""
    commands: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By heading of the help: of each command, such as `serve` or `store ls`, the dotted name of its function."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Words that stand for several commands, such as `store`, and what help says of them."""

    @property
    def modules(self) -> dict[str, str]:
        """The module of each public name."""
        return {name: module for module, names in self.names.items() for name in names.split()}


@cache
def installed_packages() -> Mapping[str, Package]:
    """The packages that are installed, by the names of their entry points.

    Raises PluginError if one cannot be imported, or is no `Package`.
    """
    from importlib.metadata import entry_points

    found = dict[str, Package]()
    for entry in sorted(entry_points(group="corank.packages"), key=lambda entry: entry.name):
        what = f"entry point '{entry.name}' of corank.packages"
        try:
            package = entry.load()
        except Exception as error:
            raise PluginError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(package, Package):
            raise PluginError(f"{what}: expected a corank.core.package.Package; received {package!r}")
        found[entry.name] = package
    return found
