"""How the command line names and reads a parameter of a public function, declared next to the parameter.

The functions of `corank` are its commands: what has no default is an argument, the rest are options by their names, and
help comes from the docstring. An annotation says what differs from that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from corank.core.errors import ConfigError
from corank.core.view import View

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """Where the command line differs from Python. For a number, `annotated_types.Ge` bounds what it may be."""

    name: str = ""
    """Such as `--set`; one without dashes makes an argument of it. Unless given, it follows from the parameter's."""
    parse: Callable[[Any], Any] | None = None
    """Turns the text of the option, or the texts of one that may be repeated, into the value; raises CorankError."""
    repeated: bool = False
    """Whether what `parse` reads may be repeated."""
    python_only: bool = False
    """Whether the command line lacks it."""


PYTHON_ONLY = Option(python_only=True)

Overrides = Annotated[Sequence[str], Option("--set")]
"""`a.b=value` changes of a config."""


def read_names(texts: Sequence[str]) -> dict[str, str]:
    """Read `NAME=FILES` options. Raises ConfigError for one of another form.

    Example:
        >>> read_names(["clicks=clicks/*.parquet"])
        {'clicks': 'clicks/*.parquet'}
    """
    tables = {}
    for text in texts:
        name, equals, files = text.partition("=")
        if not (name and equals and files):
            raise ConfigError(f"expected NAME=FILES, such as clicks=clicks/*.parquet; received {text!r}")
        tables[name] = files
    return tables


EVENTS = Option(parse=read_names, repeated=True)
"""Tables of events by name, which the command line takes as `NAME=FILES`."""


def read_rates(text: str) -> list[float]:
    """Read `--rates`. Raises ConfigError for what is no list of numbers.

    Example:
        >>> read_rates("0.5,1,2")
        [0.5, 1.0, 2.0]
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--rates: expected numbers with commas between them; received {text!r}") from None


FACTORS = Option(parse=read_rates)
"""Factors on learning rates, which the command line takes with commas between them."""


def printed(how: str | Callable[[Any], View | str]) -> Callable[[F], F]:
    """A decorator that says how the command of a function prints what it returns, if that is no `Result`.

    Args:
        how: a line for stderr, in which `{result}` and arguments such as `{out}` are filled in; or a function that
            makes such a line, or a view, of the result.
    """

    def mark(function: F) -> F:
        function.__dict__["printed"] = how
        return function

    return mark
