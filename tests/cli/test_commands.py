"""A command is made of a function: its options are the parameters, and what it prints is the result's view."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge
from cyclopts import App, CycloptsError
from pydantic import Field

from corank.analysis.html import render
from corank.api.results import Result
from corank.cli.commands import make_command
from corank.core.errors import CorankError, DataError
from corank.core.options import EVENTS, PYTHON_ONLY, Option
from corank.core.settings import Settings
from corank.core.view import Section, Table, View


class ServiceSettings(Settings):
    """Settings whose fields are options."""

    port: int = Field(8000, ge=1, description="Port.")
    rate_limit: float | None = Field(None, description="Requests a second.")


def call(function: Callable[..., Any], *words: str) -> int:
    """The exit status of a command that is made of a function."""
    app = App(result_action="return_value")
    app.default(make_command(function))
    status = app(words, exit_on_error=False, print_error=False)
    assert isinstance(status, int)
    return status


def draw(
    config: str,
    other: Annotated[str | None, Option("OTHER")] = None,
    share: Annotated[float, Ge(0.5)] = 0.5,
    kind: Literal["ivf", "flat"] = "flat",
    names: Annotated[tuple[str, ...], Option("--name")] = (),
    events: Annotated[dict[str, str] | None, EVENTS] = None,
    hidden: Annotated[bool, PYTHON_ONLY] = True,
    report: Callable[[str], object] = print,
    **settings: Annotated[Any, ServiceSettings],
) -> dict[str, Any]:
    """Draw.

    Args:
        config: a file,
            in YAML.
        other: another.
        share: how much.
        kind: of index.
        names: each.
        events: tables.
        hidden: of Python alone.
        report: takes a line.
        settings: of the service.
    """
    report("drawn")
    return {
        "config": config,
        "other": other,
        "share": share,
        "kind": kind,
        "names": names,
        "events": events,
        **settings,
    }


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert call(draw, *words) == 0
    out, err = capsys.readouterr()
    assert err == "drawn\n"
    document: dict[str, Any] = json.loads(out)
    return document


def test_parameters_are_arguments_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    plain: dict[str, Any] = {
        "config": "a.yaml",
        "other": None,
        "share": 0.5,
        "kind": "flat",
        "names": [],
        "events": None,
    }
    assert printed(capsys, "a.yaml") == plain
    words = ["a.yaml", "b.yaml", "--share", "0.75", "--kind=ivf", "--name", "x", "--name", "y"]
    changed = plain | {"other": "b.yaml", "share": 0.75, "kind": "ivf", "names": ["x", "y"]}
    assert printed(capsys, *words) == changed
    events = printed(capsys, "a.yaml", "--events", "clicks=c/*.parquet", "--events", "likes=l.csv")["events"]
    assert events == {"clicks": "c/*.parquet", "likes": "l.csv"}
    # of settings those that were given, so that a file may have the others
    assert printed(capsys, "a.yaml", "--port", "9000") == plain | {"port": 9000}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a", "--share", "0.25"],
        ["a", "--kind", "other"],
        ["a", "--hidden"],
        ["a", "--port", "0"],
        ["a", "--report", "x"],
        ["a", "b", "c"],
    ],
    ids=" ".join,
)
def test_wrong_usage_calls_nothing(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(CycloptsError):
        call(draw, *words)
    assert capsys.readouterr() == ("", "")


def test_a_value_of_another_form_is_an_error_of_the_user() -> None:
    with pytest.raises(CorankError, match="expected NAME=FILES"):
        call(draw, "a", "--events", "clicks")


def test_help_comes_from_the_docstring_and_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    app = App(name="draw")
    app.default(make_command(draw))
    app(["--help"], exit_on_error=False, result_action="return_value")
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "a file, in YAML.",
        "--share FLOAT how much. [default: 0.5]",
        "--port INT Port. [default: 8000]",
    ):
        assert part in text
    assert "hidden" not in text and "--report" not in text and "Requests a second." in text


@dataclass(frozen=True)
class Judged(Result):
    """A result with two tables."""

    faults: tuple[str, ...] = ()
    forbids: bool = False

    def to_json(self) -> str:
        """Nothing."""
        return "{}"

    @property
    def lines(self) -> list[str]:
        """One."""
        return ["written: here"]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Those given."""
        return self.faults

    def view(self) -> View:
        """Two tables."""
        tables = [Table(["metric", "value"], [["auc", "0.5"]]), Table(["loss", "rows"], [["click", "7"]])]
        return View("title", "lead", [Section("one", tables)])

    def require(self) -> None:
        """Raise DataError if it was asked."""
        if self.forbids:
            raise DataError("cannot go on")


def test_a_result_prints_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """A table more in its view is one more on the terminal and on a page."""

    def judge(refuse: bool = False, forbid: bool = False) -> Judged:
        """Judge."""
        return Judged(("too few rows",) if refuse else (), forbid)

    assert call(judge) == 0
    out, err = capsys.readouterr()
    assert err == "written: here\n" and all(word in out for word in ("lead", "auc", "click"))
    assert render(Judged().view()).count("<table") == 2
    assert call(judge, "--json") == 0 and capsys.readouterr().out == "{}\n"
    assert call(judge, "--refuse") == 3 and capsys.readouterr().err.endswith("too few rows\n")
    with pytest.raises(DataError, match="cannot go on"):
        call(judge, "--forbid")
    assert "auc" in capsys.readouterr().out  # shown before
