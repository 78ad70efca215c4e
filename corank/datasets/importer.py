"""What an importer is: the files of a public log → corank's tables and a config. `corank import` lists them all."""

from abc import abstractmethod
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from corank.core.errors import PluginError
from corank.core.registry import Registry
from corank.core.settings import Settings
from corank.core.types import Report

OPTION_TYPES = (bool, int, float, str, date, Path)
"""Types that a field of an importer may have, each also with None."""


class Importer(Settings):
    """Turns the files of a log into tables and a config.

    Its fields are the options of `corank import NAME SOURCE OUT`, with the fields' types, defaults, aliases and
    descriptions: `full: bool = Field(False, description="All levels.")` becomes `--full`. The class's docstring is
    the command's help.

    Example:
        @IMPORTERS.register("mylog")
        class MyLog(Importer):
            \"\"\"Import my shop's log.\"\"\"

            source_help = "The folder of daily files."
            days: int = Field(7, description="Days to read.")

            def write(self, source, out, report):
                with written_whole(out) as folder:
                    ...
    """

    source_help: ClassVar[str] = "Where the log's files are."
    """What SOURCE is, for the command's help."""

    @abstractmethod
    def write(self, source: Path, out: Path, report: Report) -> None:
        """Write the tables and `config.yaml` to the folder `out`, whole or not at all.

        Args:
            source: the folder or file that the user names.
            report: takes a line about each step.

        Raises DataError, which names file, column and row, if the files cannot be imported.
        """


def option_type(annotation: Any) -> tuple[Any, bool]:
    """The type of an option without None, and whether None is allowed."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return (kinds[0] if len(kinds) == 1 else annotation), True


def _check(what: str, importer: Any) -> None:
    """Raise PluginError unless a registered part is a complete importer class with a help text."""
    if not (isinstance(importer, type) and issubclass(importer, Importer)):
        raise PluginError(f"{what} must be a subclass of corank.datasets.importer.Importer")
    if getattr(importer.write, "__isabstractmethod__", False):
        raise PluginError(f"{what} lacks the method write(source, out, report)")
    if not importer.__doc__ or importer.__doc__ == Importer.__doc__:
        raise PluginError(f"{what} lacks a docstring, which is the help of its command")
    for name, field in importer.model_fields.items():
        if option_type(field.annotation)[0] not in OPTION_TYPES:
            known = ", ".join(kind.__name__ for kind in OPTION_TYPES)
            raise PluginError(
                f"{what}: the field '{name}' must be of one of the types {known}, or that or None"
            )


IMPORTERS = Registry[type[Importer]]("importer", "corank.importers", "corank.datasets", _check)
"""Importers by the name of their command."""
