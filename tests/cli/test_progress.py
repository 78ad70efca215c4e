"""What is counted, where there is no terminal to draw a bar."""

import pytest

from corank.cli import progress


@pytest.mark.parametrize(("every", "said"), [(-1, ["items: 1,000/2,000", "items: 2,000/2,000"]), (3600, [])])
def test_a_line_now_and_then_says_how_much_is_done(
    every: int, said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", every)
    with progress.counting("items") as count:
        count(1_000, 2_000)
        count(2_000, 2_000)
    assert capsys.readouterr().err.splitlines() == said
