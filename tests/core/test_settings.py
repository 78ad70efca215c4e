"""Frozen settings: unknown keys and wrong values are refused by the path of their key."""

from datetime import timedelta
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from corank.core.errors import ConfigError
from corank.core.settings import Duration, Settings, validate


class Circle(Settings):
    kind: Literal["circle"]
    radius: float


class Square(Settings):
    kind: Literal["square"]
    side: float


class Drawing(Settings):
    name: str
    copies: PositiveInt = 1
    levels: list[str] = Field(default=["low"], alias="from")
    every: Duration = timedelta()
    shapes: list[Annotated[Circle | Square, Field(discriminator="kind")]] = []


def refused(value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Drawing, value, "a.yaml")
    return str(caught.value)


def test_an_unknown_key_names_the_nearest() -> None:
    assert (
        refused({"name": "x", "copis": 2})
        == "a.yaml: (top level): unknown key 'copis'; did you mean 'copies'?"
    )


def test_the_path_is_the_one_that_the_user_wrote() -> None:
    """The union's tag, which pydantic puts into its path, is no key of the file."""
    shapes = [{"kind": "square", "side": 1}, {"kind": "circle", "radius": "wide"}]
    message = refused({"name": "x", "shapes": shapes})
    assert message.startswith("a.yaml: shapes.1.radius: ") and message.endswith("received 'wide'")


def test_a_missing_key_is_named() -> None:
    assert refused({"copies": 1}) == "a.yaml: name: required, but not given"
    assert refused({"name": "x", "shapes": [{"kind": "circle"}]}) == (
        "a.yaml: shapes.0.radius: required, but not given"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1w",
        "-1h",
    ],
)
def test_what_is_no_duration(text: object) -> None:
    assert "expected a duration" in refused({"name": "x", "every": text})


@given(st.integers(0, 10**9))
def test_a_duration_is_written_as_it_is_read(seconds: int) -> None:
    drawing = Drawing(name="x", every=timedelta(seconds=seconds))
    written = drawing.model_dump(mode="json", by_alias=True)
    assert Drawing.model_validate(written) == drawing
