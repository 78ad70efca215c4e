"""Console output: figures side by side, ids and paths unchanged."""

from typing import Any

import pytest

from corank.api.bundles import rank
from corank.cli import console as screen
from corank.cli.commands import print_value


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    return str(out)


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    (row,) = [line.split() for line in text.splitlines() if line.split()[:1] == [first]]
    return row


@pytest.fixture
def answer() -> dict[str, Any]:
    def entry(item: Any, cut: str | None, **ranks: int) -> dict[str, Any]:
        return {"id": item, "cut": cut, "stages": {s: {"score": 0.5, "rank": r} for s, r in ranks.items()}}

    return {
        "model_version": "0123456789abcdef",
        "items_seq": 3,
        "items": [{"id": "[b]9", "score": 0.25}, {"id": "[/x]", "score": 0.125}],
        "unknown": [17, "[u]"],
        "missing": ["user.age"],
        "trace": [
            entry("[b]9", None, towers=2, mlp=1),
            entry("[/x]", None, towers=1, mlp=2),
            entry("c", "mlp", towers=3, mlp=3),
            entry("d", "towers", towers=4),
            entry("e", "towers", towers=5),
        ],
    }


def test_answer_shows_order_ranks_and_cuts(
    answer: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_value(answer, rank, {})
    text = shown(capsys)
    assert "model 0123456789abcdef  items 3" in text
    # ids with brackets are no markup
    assert cells(text, "1") == ["1", "[b]9", "0.25000", "2", "1"]
    assert cells(text, "2") == ["2", "[/x]", "0.12500", "1", "2"]
    lines = text.splitlines()
    assert lines.index("towers cut 2 of 5") < lines.index("mlp cut 1 of 3")  # in the cascade's order
    assert "unknown: 17, [u]" in lines
    assert "missing: user.age" in lines


def test_a_line_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a/very/long/path/" + "folder/" * 30 + "[bold]/[/x]:x:"
    screen.say(f"bundle: {path}")
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"bundle: {path}\n")
