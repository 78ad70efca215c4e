"""Commands made of functions: a command's arguments, options and help come from signature and docstring.

`app.command("corank.cli.commands:train")` resolves when the command is called, so that nothing else is loaded.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date
from functools import partial
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from cyclopts import App, Parameter
from cyclopts.validators import Number
from pydantic import BaseModel

from corank.core.machine_errors import name_write_errors
from corank.core.objects import require_local
from corank.core.options import Option
from corank.core.reports import DISPLAY, Progress, Report
from corank.distributed.launch_environment import is_first, is_started_here

if TYPE_CHECKING:
    from corank.datasets.importer import Importer

REFUSED = 3
"""The exit status if new rows break a threshold of the config, or the newest period did not go live."""
AS_JSON = Annotated[
    bool,
    Parameter(
        name="--json", help="Print one JSON document and nothing else.", show_default=False, negative=()
    ),
]
ARGUMENTS = ("source",)
"""Fields of settings that are arguments of a command."""
SCALARS = (bool, int, float, str)
SUPPLIED = ("report", "progress", "callbacks", "tables")
"""Parameters of functions that only Python takes, or that the command line supplies itself."""


def __getattr__(target: str) -> App:
    """The command of a function by its dotted name; `import` and `store` are groups of commands."""
    if target == "import":
        return _import_group()
    if target == "store":
        from corank.cli.main import STORE

        group = App(name="store", help_epilogue="")
        for name, function in STORE.items():
            group.command(__getattr__(function), name=name)
        return group
    module, _, name = target.rpartition(".")
    if not module.startswith("corank."):
        raise AttributeError(target)
    return _command_of(getattr(import_module(module), name), name)


def _command_of(function: Callable[..., Any], name: str) -> App:
    doc = re.split(r"\n\n(?:Args|Example|Returns|Raises)\b", inspect.getdoc(function) or "")[0]
    command = App(name=COMMAND_NAMES.get(name, name.replace("_", "-")), help=doc, help_epilogue="")
    command.default(make_command(function, SHOW.get(name, print_plain)))
    return command


def _import_group() -> App:
    """A command for each registered importer, plug-ins' too, whose fields are its options."""
    from corank.datasets.importer import IMPORTERS

    group = App(name="import", help_epilogue="")
    for name, importer in IMPORTERS.parts().items():
        group.command(_command_of(_importing(name, importer), name))
    return group


def _importing(name: str, importer: "type[Importer]") -> Callable[..., None]:
    """A function that imports a log."""

    def run(source: Path, out: Path, report: Report, **settings: Annotated[Any, importer]) -> None:
        from corank.core.settings import validate

        with name_write_errors(out := require_local(out)):
            validate(importer, settings, f"import {name}").write(require_local(source), out, report)
        report(f"next: corank train {out / 'config.yaml'}")

    run.__doc__ = (
        f"{inspect.getdoc(importer)}\n\nArgs:\n    source: {importer.source_help}\n"
        "    out: Folder for the tables and the config."
    )
    return run


def make_command(
    function: Callable[..., Any], show: Callable[[Any, Mapping[str, Any]], object]
) -> Callable[..., Any]:
    """A function for the command line, which calls another one, and prints what it returns.

    Args:
        function: of `corank`; its required parameters become arguments, the others options.
        show: prints a plain value, given the arguments; a `Result` prints itself.
    """
    parsers: dict[str, Callable[[Any], Any]] = {}
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        named = {other.name for other in parameters}
        parameters += [made for made in _convert(parameter, parsers) if made.name not in named]
    returns = function.__annotations__.get("return")
    if returns is not None:
        parameters.append(inspect.Parameter("as_json", _KEYWORD, default=False, annotation=AS_JSON))
    signature = inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))

    def run(*args: Any, **options: Any) -> int:
        values = signature.bind(*args, **options).arguments
        as_json = values.pop("as_json", False)
        values = {name: parsers.get(name, _same)(value) for name, value in values.items()}
        from corank.cli import console

        DISPLAY.set(TerminalDisplay())
        if "report" in inspect.signature(function).parameters:
            result = function(**values, report=console.say)
        else:
            result = function(**values)
        return print_result(result, as_json, partial(show, values=values))

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = function.__name__, inspect.getdoc(function)
    return run


class TerminalDisplay:
    """Shows progress on stderr."""

    def count(self, what: str) -> AbstractContextManager[Progress]:
        """Show a bar."""
        from corank.cli.progress import counting

        return counting(what)

    def training_callbacks(self) -> list[Any]:
        """A bar with losses, and a line of every epoch's metrics."""
        from corank.cli.progress import TrainingBar

        return [TrainingBar()]


def print_result(result: Any, as_json: bool, show: Callable[[Any], object]) -> int:
    """Print what a function returned; return the exit status. Raises CorankError if the result forbids to continue."""
    from corank.api.results import Result
    from corank.cli import console

    if (
        is_started_here() or not is_first()
    ):  # the process that started this one prints, or the first of several
        return 0
    if not isinstance(result, Result):
        if as_json:
            print_json(result)
        elif result is not None:
            show(result)
        return 0
    for line in result.lines:
        console.say(line)
    view = None if as_json else result.view()
    if as_json:
        sys.stdout.write(result.to_json() + "\n")
    elif view is not None:
        console.show(view)
    for reason in result.reasons:
        console.say(reason)
    result.require()
    return REFUSED if result.reasons else 0


def print_plain(value: Any, values: Mapping[str, Any]) -> None:
    """Print a text as it is, and any other value as JSON."""
    sys.stdout.write(f"{value}\n") if isinstance(value, str) else print_json(value)


def _show_view(make: str) -> Callable[..., None]:
    """Prints a plain document by the function of corank.serving.views that describes it."""

    def show(document: Any, values: Mapping[str, Any]) -> None:
        from corank.cli import console
        from corank.serving import views

        console.show(getattr(views, make)(document))

    return show


def _say(form: str) -> Callable[..., None]:
    """Says a line on stderr, of the `result` and the arguments."""

    def show(result: Any, values: Mapping[str, Any]) -> None:
        from corank.cli import console

        console.say(form.format(result=result, **values))

    return show


COMMAND_NAMES = {"store_versions": "ls", "store_log": "log", "roll_back": "rollback"}
"""Commands that are called otherwise than their functions."""
SHOW: Mapping[str, Callable[..., object]] = {
    "simulate": _say(
        "{result.candidates:,} candidates, {result.exposed:,} exposed, {result.clicks:,} clicks"
    ),
    "vectors": _say("{out}: {result:,} items"),
    "users": _say("{out}: {result:,} users"),
    "conformance": _say("{out}: {result:,} cases"),
    "predict": _say(
        "{out}: {result.requests:,} requests, {result.candidates:,} candidates, of which the bundle does not know "
        "{result.unknown:,}"
    ),
    "track": _say("report: {result}"),
    "roll_back": _say("live: {result}"),
    "prune": lambda removed, values: _say("{result} removed")(len(removed), values),
    "rank": _show_view("answer_view"),
    "store_versions": _show_view("versions_view"),
    "store_log": _show_view("log_view"),
}
"""How a value is printed that is no `Result`, by the name of the function."""


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """What JSON makes of a value that is no plain one."""
    return vars(value) if hasattr(value, "__dict__") else str(value)


def _same(value: Any) -> Any:
    return value


_KEYWORD, _POSITIONAL = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY


def _convert(
    parameter: inspect.Parameter, parsers: dict[str, Callable[[Any], Any]]
) -> Iterator[inspect.Parameter]:
    """The parameters of a command that stand for one of a function; those that need it get a parser."""
    annotation, metadata = parameter.annotation, ()
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        yield from (option for settings in metadata for option in list_options(settings))
        return
    option = next((part for part in metadata if isinstance(part, Option)), Option())
    if parameter.name in SUPPLIED or option.python_only:
        return
    required = parameter.default is inspect.Parameter.empty
    argument = not option.name.startswith("-") and bool(required or option.name)
    if option.parse is not None:
        parsers[parameter.name] = option.parse
        annotation = Sequence[str] if option.repeated else str | None
    kind = _read_type(annotation)
    plain = isinstance(parameter.default, SCALARS)
    details = Parameter(
        name=option.name or (None if argument else f"--{parameter.name.replace('_', '-')}"),
        validator=_bounds(metadata),
        show_default=plain and parameter.default is not False,
        negative=(),
    )
    default = parameter.default if required or plain else None
    yield inspect.Parameter(
        parameter.name,
        _POSITIONAL if argument else _KEYWORD,
        default=default,
        annotation=Annotated[kind if required or plain else kind | None, details],
    )


def _bounds(metadata: Sequence[Any]) -> Number | None:
    """The check of a number that `annotated_types` bounds."""
    for part in metadata:
        match part:
            case Ge():
                return Number(gte=part.ge)
            case Gt():
                return Number(gt=part.gt)
            case Le():
                return Number(lte=part.le)
    return None


def _read_type(annotation: Any) -> Any:
    """The type that the command line reads: of a table or a path, which Python takes in several forms, a text."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kinds = [_read_type(member) for member in members if member is not NoneType]
        return str if str in kinds else kinds[0]
    if origin is Annotated:
        return _read_type(members[0])
    if origin is Literal or annotation in SCALARS:
        return annotation
    if origin in (list, tuple, set) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return list[_read_type(members[0])]  # type: ignore[misc]
    return annotation if isinstance(annotation, type) and issubclass(annotation, date) else str


def list_options(settings: type[BaseModel]) -> Iterator[inspect.Parameter]:
    """An option for each field of settings, with its type, default, bounds and description; none is required."""
    for name, field in settings.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        shown = isinstance(default, SCALARS) and default not in (False, "")
        details = Parameter(
            name=f"--{(field.alias or name).replace('_', '-')}",
            help=field.description,
            validator=_bounds(field.metadata),
            show_default=partial(_same_text, str(default)) if shown else False,
            required=field.is_required() and name not in ARGUMENTS,
            negative=(),
        )
        kind = _read_type(field.annotation)
        yield inspect.Parameter(name, _KEYWORD, default=None, annotation=Annotated[kind | None, details])


def _same_text(text: str, _: Any) -> str:
    return text
