"""What a simulated world is: settings → a log whose truth is known. `corank simulate` writes every registered one."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import NonNegativeInt

from corank.core.errors import DataError, PluginError
from corank.core.locks import LOCK, WriteLock
from corank.core.registry import Registry, check_class
from corank.core.settings import Settings


class Simulated(NamedTuple):
    """Counts of the log that was written."""

    candidates: int
    exposed: int
    clicks: int


class SimulatedWorld(Settings):
    """A world of known truth, which its fields determine entirely, and the files that it is written as.

    `corank simulate OUT --preset PRESET --format FORMAT` writes the world that has the preset and the format. An option
    of the command sets the field of its name, a field `preset` receives the preset, and an option without a field is
    an error. Other fields can be set from Python.

    Example:
        @WORLDS.register("coins")
        class Coins(SimulatedWorld):
            \"\"\"Requests for coins.\"\"\"

            presets = ("coins",)
            files = ("config.yaml", "log.parquet")
            requests: int = 1000

            def write(self, out):
                ...
                return Simulated(candidates, exposed, clicks)
    """

    presets: ClassVar[tuple[str, ...]]
    """The values of `--preset` that ask for the world."""
    format: ClassVar[str] = "plain"
    """The value of `--format`: `plain` for corank's own tables and `config.yaml`, else the importer of the files."""
    files: ClassVar[tuple[str, ...]]
    """Globs of the files that `write` may write, in the order in which those of an earlier world are removed."""

    seed: NonNegativeInt = 0
    """Of all that is drawn."""

    @abstractmethod
    def write(self, out: Path) -> Simulated:
        """Write the files of the world: the same bytes for equal fields.

        Args:
            out: a folder without files of an earlier world, whose sub-folders exist, locked for this process.
        """

    def simulate(self, out: Path, overwrite: bool = False) -> Simulated:
        """Write the world into a folder that is not there or empty, or, to `overwrite`, holds a world.

        Raises:
            BusyError: another process writes into `out`.
            DataError: `out` is a file, or a folder with something in it and `overwrite` is not set.
        """
        with self._cleared(out, overwrite):
            return self.write(out)

    @contextmanager
    def _cleared(self, out: Path, overwrite: bool) -> Iterator[None]:
        """Lock a folder, remove the files of an earlier world, and make sub-folders."""
        if out.exists() and not out.is_dir():
            raise DataError(f"{out}: is a file; name a folder to write the simulated world into")
        try:
            lock = WriteLock(out, "simulate")
        except OSError as error:
            raise DataError(f"{out}: cannot be written: {error}") from None
        with lock:
            if not overwrite and any(path.name != LOCK for path in out.iterdir()):
                raise DataError(f"{out}: the folder is not empty; name another, or overwrite the world in it")
            for pattern in self.files:
                for old in sorted(out.glob(pattern)):
                    old.unlink()
                (out / pattern).parent.mkdir(parents=True, exist_ok=True)
            yield


def _check(what: str, world: Any) -> None:
    """Raise PluginError unless a registered part is a complete class of a world that no other part writes."""
    check_class(what, world, SimulatedWorld)
    if missing := [name for name in ("presets", "files") if not getattr(world, name, None)]:
        raise PluginError(f"{what} lacks the class attribute {missing[0]}")
    for name, other in WORLDS.parts(load=False).items():
        taken = set(world.presets) & set(other.presets)
        if taken and world.format == other.format and world.__qualname__ != other.__qualname__:
            raise PluginError(
                f"{what}: the world '{name}' has the preset {min(taken)} in the format {world.format}; take another"
            )


WORLDS = Registry[type[SimulatedWorld]]("world", "corank.worlds", "corank.datasets.feed", _check)
"""Simulated worlds by name. `corank simulate` chooses by preset and format."""
