"""Commands made of functions: arguments, options and help come from signature and docstring.

`app.command("corank.cli.commands:corank.api.runs.check")` resolves when the command is called, so that help of all
commands loads none of them.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, timedelta
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from cyclopts import App, Parameter, Token
from cyclopts.validators import Number
from pydantic import BaseModel

from corank.cli import console
from corank.core.lazy import without_collection
from corank.core.options import Option
from corank.core.package import installed_packages
from corank.core.reports import DISPLAY, Progress
from corank.core.settings import format_duration
from corank.distributed.launch_environment import is_first, is_started_here

REFUSED = 3
"""The exit status if new rows break a threshold of the config, or the newest period did not go live."""
SUPPLIED = ("report", "progress", "callbacks", "tables")
"""Parameters that only Python takes, or that the command line supplies itself."""
SCALARS = (bool, int, float, str)


def __getattr__(target: str) -> App:
    """The command of a function by its dotted name; or, of a word such as `store`, the group of its commands."""
    if target == "import":
        return _import_group()
    if "." in target:
        return _command_of(_load(target), target.rpartition(".")[2].replace("_", "-"))
    package = next((one for one in installed_packages().values() if target in one.groups), None)
    if package is None:
        raise AttributeError(target)
    group = App(name=target, help_epilogue="", version_flags=[])
    for words, function in (pair for commands in package.commands.values() for pair in commands.items()):
        first, _, second = words.partition(" ")
        if first == target:
            group.command(_command_of(_load(function), second))
    return group


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    with without_collection():
        return getattr(import_module(module), name)  # type: ignore[no-any-return]


def _command_of(function: Callable[..., Any], name: str) -> App:
    doc = re.split(r"\n\n(?:Args|Example|Returns|Raises)\b", inspect.getdoc(function) or "")[0]
    command = App(name=name, help=doc, help_epilogue="", version_flags=[])
    command.default(make_command(function))
    return command


def _import_group() -> App:
    """A command for each registered importer, plug-ins' too, whose fields are its options."""
    from corank.api.importing import import_function
    from corank.datasets.importer import IMPORTERS

    group = App(name="import", help_epilogue="", version_flags=[])
    for name in IMPORTERS.parts():
        group.command(_command_of(import_function(name), name))
    return group


def make_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for the command line, which calls another one, prints what it returns, and returns the exit status.

    Args:
        function: of `corank`; its required parameters become arguments, the others options. `printed` says how a value
            is printed that is no `Result`.
    """
    parsers: dict[str, Callable[[Any], Any]] = {}
    parameters: dict[str, inspect.Parameter] = {}
    for parameter in inspect.signature(function).parameters.values():
        for made in _convert(parameter, parsers):
            parameters.setdefault(made.name, made)
    if function.__annotations__.get("return") is not None:
        details: Any = {"name": "--json", "help": JSON_HELP, "show_default": False}
        parameters["as_json"] = _option("as_json", bool, False, **details)
    signature = inspect.Signature(sorted(parameters.values(), key=lambda parameter: parameter.kind))
    supplied = inspect.signature(function).parameters

    def run(*args: Any, **options: Any) -> int:
        DISPLAY.set(TerminalDisplay())
        values = signature.bind(*args, **options).arguments
        as_json = values.pop("as_json", False)
        values = {name: parsers[name](value) if name in parsers else value for name, value in values.items()}
        result = function(**values, **({"report": console.say} if "report" in supplied else {}))
        return print_result(result, as_json, lambda value: print_value(value, function, values))

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    # lines of the docstring are joined, for the terminal breaks them by its own width
    run.__name__, run.__doc__ = function.__name__, re.sub(r"\n {8,}", " ", inspect.getdoc(function) or "")
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
    # the one that started this one prints, or the first of several
    if is_started_here() or not is_first():
        return 0
    # whose module is loaded if the result is one; it loads polars, which a service that ends must not wait for
    results = sys.modules.get("corank.api.results")
    if results is None or not isinstance(result, results.Result):
        print_json(result) if as_json else show(result)
        return 0
    for line in result.lines:
        console.say(line)
    if as_json:
        sys.stdout.write(result.to_json() + "\n")
    elif (view := result.view()) is not None:
        console.show(view)
    for reason in result.reasons:
        console.say(reason)
    result.require()
    return REFUSED if result.reasons else 0


def print_value(value: Any, function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Print a value that is no `Result` as its function says; else a text as it is, others as JSON, of None nothing."""
    how = vars(function).get("printed")
    if isinstance(how, str):
        console.say(how.format(result=value, **values))
    elif how is not None:
        shown = how(value)
        console.say(shown) if isinstance(shown, str) else console.show(shown)
    elif value is not None:
        sys.stdout.write(f"{value}\n") if isinstance(value, str) else print_json(value)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """What JSON makes of a value that is no plain one."""
    return vars(value) if hasattr(value, "__dict__") else str(value)


JSON_HELP = "Print one JSON document and nothing else."


def _convert(
    parameter: inspect.Parameter, parsers: dict[str, Callable[[Any], Any]]
) -> Iterator[inspect.Parameter]:
    """The parameters of a command that stand for one of a function; one whose text is parsed gets a parser."""
    annotation, metadata = parameter.annotation, list[Any]()
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        yield from (option for settings in metadata for option in list_options(settings))
        return
    option = next((part for part in metadata if isinstance(part, Option)), Option())
    if parameter.name in SUPPLIED or option.python_only:
        return
    if option.parse is not None:
        parsers[parameter.name] = option.parse
        annotation = list[str] if option.repeated else str
    kind, default = _read_type(annotation), parameter.default
    required = default is inspect.Parameter.empty
    shown = isinstance(default, SCALARS) and option.parse is None
    if not option.name.startswith("-") and (required or option.name):
        converter = _read_whole if kind is int else None
        details = Parameter(name=option.name or None, validator=_bounds(metadata), converter=converter)
        default = default if required else None
        typed: Any = Annotated[kind if required else kind | None, details]
        yield inspect.Parameter(
            parameter.name, inspect.Parameter.POSITIONAL_ONLY, default=default, annotation=typed
        )
        return
    yield _option(
        parameter.name,
        kind,
        default if required or shown else None,
        name=option.name or f"--{parameter.name.replace('_', '-')}",
        validator=_bounds(metadata),
        show_default=_shown(default),
    )


def _shown(default: Any) -> Callable[[Any], str] | bool:
    """How help shows a default, as the command line reads it."""
    match default:
        case False | "":
            return False
        case bool() | int() | float() | str():
            text = str(default)
        case timedelta():
            text = format_duration(default)
        case [int() | float(), *_]:
            text = ",".join(f"{number:.3g}" for number in default)
        case _:
            return False
    return lambda _: text


def _read_whole(kind: type, tokens: Sequence[Token]) -> int:
    """Read a whole number; the parser would round 1.5. Raises ValueError."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number; received {tokens[0].value!r}") from None


def _option(key: str, kind: Any, default: Any, **details: Any) -> inspect.Parameter:
    read = kind if default is not None else kind | None
    details["converter"] = _read_whole if kind is int else None
    # of an option that is given twice the last counts, as scripts that add to a command expect
    repeats = None if get_origin(kind) is list else True
    annotation: Any = Annotated[read, Parameter(negative=(), allow_repeating=repeats, **details)]
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def list_options(settings: type[BaseModel]) -> Iterator[inspect.Parameter]:
    """An option for each field of settings, with its type, default, bounds and description."""
    for name, field in settings.model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        yield _option(
            name,
            _read_type(field.annotation),
            inspect.Parameter.empty if required else None,
            name=f"--{(field.alias or name).replace('_', '-')}",
            help=field.description,
            validator=_bounds(field.metadata),
            show_default=_shown(default),
        )


def _bounds(metadata: Sequence[Any]) -> list[Number]:
    """The checks of a number that `annotated_types` bounds."""
    bounds = ((Ge, "ge", "gte"), (Gt, "gt", "gt"), (Le, "le", "lte"))
    return [
        Number(**{name: getattr(part, bound)})
        for part in metadata
        for kind, bound, name in bounds
        if isinstance(part, kind)
    ]


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
    if origin in (list, tuple) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return list[_read_type(members[0])]  # type: ignore[misc]
    return annotation if isinstance(annotation, type) and issubclass(annotation, date) else str
