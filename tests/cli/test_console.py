"""Console output: figures side by side, ids and paths unchanged."""

from typing import Any

import pytest

from corank.cli import console as screen


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    return str(out)


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    (row,) = [line.split() for line in text.splitlines() if line.split()[:1] == [first]]
    return row


def between(low: str, high: str) -> list[str]:
    """An interval's cells."""
    return [low, "…", high]


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
    screen.show_answer(answer)
    text = shown(capsys)
    assert "model 0123456789abcdef  items 3" in text
    # ids with brackets are no markup
    assert cells(text, "1") == ["1", "[b]9", "0.25000", "2", "1"]
    assert cells(text, "2") == ["2", "[/x]", "0.12500", "1", "2"]
    lines = text.splitlines()
    assert lines.index("towers cut 2 of 5") < lines.index("mlp cut 1 of 3")  # in the cascade's order
    assert "unknown: 17, [u]" in lines
    assert "missing: user.age" in lines


@pytest.fixture
def document() -> dict[str, Any]:
    def stage(auc: float) -> dict[str, Any]:
        exposed: dict[str, Any] = {"auc": auc, "gauc": None, "hit@5": auc, "pcoc": 1.0, "n": 30}
        exposed |= {"eligible": {"gauc": 0, "hit@5": 7}, "random": {"gauc": None, "hit@5": 0.125}}
        return {
            "exposed": {"click": exposed},
            "candidates": {"click": {"auc": None, "cut_auc": auc / 2, "n": 90}},
        }

    def bounds(low: float) -> dict[str, Any]:
        exposed = {"auc": [low, 0.75], "gauc": None, "hit@5": None, "pcoc": [0.5, 1.5]}
        return {"exposed": {"click": exposed}, "candidates": {"click": {"auc": None, "cut_auc": None}}}

    ranker = stage(0.75)
    ranker["exposed"]["order"] = {"auc": 0.625, "gauc": None, "pcoc": None, "n": 4}
    ranker["candidates"]["order"] = {"auc": None, "cut_auc": None, "n": 0}

    def curve(*bins: tuple[float, float, float]) -> list[dict[str, Any]]:
        names = ("raw", "calibrated", "observed")
        return [dict(zip(names, one, strict=True)) | {"low": 0.0, "high": 1.0, "n": 15} for one in bins]

    return {
        "split": "test",
        "requests": 1234,
        "candidates": 56789,
        "stages": {"prerank": stage(0.5), "rank": ranker},
        "reliability": {
            "prerank": {"click": curve((0.125, 0.25, 0.375), (0.5, 0.625, 0.75))},
            "rank": {"click": curve((0.0625, 0.1875, 0.3125)), "order": []},
        },
        "cascade": {
            "click_recall@9": 0.8,
            "truth_recall@3@9": None,
            "eligible": {"click_recall@9": 1000, "truth_recall@3@9": 0},
            "random": {"click_recall@9": 0.3, "truth_recall@3@9": None},
        },
        "interval": {
            "stages": {"prerank": bounds(0.25), "rank": bounds(0.625)},
            "cascade": {"click_recall@9": [0.7, 0.9], "truth_recall@3@9": None},
        },
    }


def test_evaluation_shows_the_stages_side_by_side(
    document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    screen.show_evaluation(document)
    text = shown(capsys)
    assert text.startswith("test: 1,234 requests, 56,789 candidates\n")
    exposed, _, rest = text.partition("exposed · order")
    assert cells(exposed, "auc") == [
        "auc",
        "0.5000",
        *between("0.2500", "0.7500"),
        "0.7500",
        *between("0.6250", "0.7500"),
    ]
    assert "gauc" not in text  # neither stage has one
    assert cells(exposed, "hit@5") == ["hit@5", "0.5000", "0.7500"]
    assert "7 groups with a 1 and a 0; random order: hit@5 0.1250" in exposed
    order, _, candidates = rest.partition("candidates · click")
    assert cells(order, "auc") == ["auc", "-", "0.6250"]
    assert cells(candidates, "cut_auc") == ["cut_auc", "0.2500", "0.3750"]
    assert "candidates · order" not in text
    assert cells(text, "click_recall@9") == [
        *("click_recall@9", "0.8000", *between("0.7000", "0.9000"), "0.3000", "1,000")
    ]
    assert cells(text, "truth_recall@3@9") == ["truth_recall@3@9", "-", "-", "0"]


def test_a_line_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a/very/long/path/" + "folder/" * 30 + "[bold]/[/x]"
    screen.say(f"bundle: {path}")
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"bundle: {path}\n")
