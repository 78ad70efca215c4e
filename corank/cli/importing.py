"""`corank import`: one command for each registered importer; the importer's fields are the command's options."""

import inspect
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from corank.cli.machine_errors import name_write_errors
from corank.cli.options import local_path

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from corank.datasets.importer import Importer


class ImporterGroup(TyperGroup):
    """Looks its commands up in the registry when it runs, after plug-ins have been loaded."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all registered importers."""
        from corank.datasets.importer import IMPORTERS

        return list(IMPORTERS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of an importer, None if there is no importer of that name."""
        from corank.datasets.importer import IMPORTERS

        if cmd_name not in IMPORTERS:
            return None
        app = typer.Typer(add_completion=False)
        app.command(cmd_name)(_command(cmd_name, IMPORTERS[cmd_name]))
        return typer.main.get_command(app)


importing = typer.Typer(
    cls=ImporterGroup, help="Turn public logs into tables and a config.", no_args_is_help=True
)


def _command(name: str, importer: "type[Importer]") -> Callable[..., None]:
    """A function with the arguments SOURCE and OUT and an option for each field, as Typer reads it."""

    def run(source: Path, out: Path, **options: Any) -> None:
        from corank.cli.console import say
        from corank.core.settings import validate

        values = {key: value for key, value in options.items() if value is not None}
        settings = validate(importer, values, f"import {name}")
        with name_write_errors(out):
            settings.write(source, out, say)
        say(f"next: corank train {out / 'config.yaml'}")

    of_source = typer.Argument(parser=local_path, metavar="SOURCE", help=importer.source_help)
    of_out = typer.Argument(parser=local_path, metavar="OUT", help="Folder for the tables and the config.")
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("source", kind, annotation=Annotated[Path, of_source]),
        inspect.Parameter("out", kind, annotation=Annotated[Path, of_out]),
        *(
            inspect.Parameter(key, kind, default=_default(field), annotation=_option(key, field))
            for key, field in importer.model_fields.items()
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = inspect.getdoc(importer)
    return run


def _default(field: "FieldInfo") -> Any:
    return inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)


def _option(key: str, field: "FieldInfo") -> Any:
    """The annotation of a field's option: its type as the command line reads it, its name and its help."""
    from annotated_types import Ge

    from corank.datasets.importer import option_type

    kind, optional = option_type(field.annotation)
    name = f"--{(field.alias or key).replace('_', '-')}"
    least: Any = next((part.ge for part in field.metadata if isinstance(part, Ge)), None)
    if kind is date:
        option = typer.Option(name, help=field.description, formats=["%Y-%m-%d"])
        kind = datetime
    else:
        option = typer.Option(name, help=field.description, min=least)
    return Annotated[kind | None, option] if optional else Annotated[kind, option]
