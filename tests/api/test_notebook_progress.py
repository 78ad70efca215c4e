"""Progress of a training in a notebook."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import corank

pytestmark = pytest.mark.slow


def test_a_notebook_shows_losses_and_metrics(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's end of the display is replaced, since no kernel runs here: two calls with an object of HTML."""
    shown: list[str] = []

    class DisplayHandle:
        def display(self, html: Any) -> None:
            shown.append(html._repr_html_())

        update = display

    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    monkeypatch.setattr(ipython, "get_ipython", lambda: SimpleNamespace(kernel=object()), raising=False)
    monkeypatch.setattr(display, "DisplayHandle", DisplayHandle, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    corank.train(world / "config.yaml", ["train.epochs=2"], folder=tmp_path / "run")
    assert "training" in shown[0]
    assert any("<progress" in text and "rank.click 0." in text and "candidates/s" in text for text in shown)
    assert "epoch 1" in shown[-1] and "epoch 2" in shown[-1] and "rank.click.auc 0." in shown[-1]
    assert shown[-1].startswith("<div>kept epoch 2 after")
