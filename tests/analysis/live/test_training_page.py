"""The page that shows a training: while it runs, at its end, resumed, and where it cannot be written."""

from pathlib import Path

import pytest

import corank
from corank.analysis.live import training_page
from corank.analysis.live.training_page import TrainingPage
from corank.core.errors import CorankError
from corank.training.callbacks import TrainingEvaluation, TrainingLog
from tests.support.browser import asked, chromium, faults
from tests.support.interruptions import Interrupting, StoppedError

SMALL = ("train.requests=24", "train.epochs=2", "train.checkpoint_every=15")
REFRESH = '<meta http-equiv="refresh" content="5">'


class Reading(corank.Callback):
    """Reads the page after every event."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pages: list[str] = []

    def on_log(self, event: TrainingLog) -> None:
        self.pages.append(self.path.read_text(encoding="utf-8"))

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        self.pages.append(self.path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_page_follows_the_training(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_page, "PAUSE_S", 0)
    path = tmp_path / "deep" / "page.html"
    reading = Reading(path)
    done = corank.train(world / "config.yaml", SMALL, [TrainingPage(path), reading], folder=tmp_path / "run")
    for page in reading.pages:
        assert page.endswith("</html>\n") and REFRESH in page and " left at most. As of " in page
    first, last = reading.pages[0], reading.pages[-1]
    assert "Epoch 1 of 2, step 20, " in first and "No epoch has been validated yet." in first
    assert "prerank.distill" in first and "candidates per second" in first
    assert "Epoch 2 of 2, step 80, " in last and "AUC of click" in last
    ended = path.read_text(encoding="utf-8")
    assert f"Ended; the model has the weights of epoch {done.epoch}. As of " in ended
    assert REFRESH not in ended and f"{done.metrics['rank.click.auc']:.4f}" in ended
    assert [part.name for part in path.parent.iterdir()] == ["page.html"]


@pytest.mark.slow
def test_a_resumed_training_shows_what_was_before(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(StoppedError):
        corank.train(world / "config.yaml", SMALL, [Interrupting(3)], folder=tmp_path / "run", page=path)
    page = path.read_text(encoding="utf-8")
    assert "Failed: StoppedError" in page and REFRESH not in page
    corank.train(world / "config.yaml", SMALL, folder=tmp_path / "run", page=str(path), resume=True)
    page = path.read_text(encoding="utf-8")
    raw = page.partition('class="raw"')[2].partition('points="')[2].partition('"')[0]
    assert len(raw.split()) == 4, "the losses at steps 20, 40, 60 and 80"
    assert page.count("<circle") == 4, "the AUC of two stages after two epochs"


@pytest.mark.slow
def test_a_page_that_cannot_be_written_is_told_before_the_first_step(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reading = Reading(tmp_path)
    with pytest.raises(CorankError, match=r"file/page.html: cannot be written: .*--page"):
        corank.train(
            world / "config.yaml",
            SMALL,
            [reading],
            folder=tmp_path / "run",
            page=tmp_path / "file" / "page.html",
        )
    assert reading.pages == []


@pytest.mark.slow
def test_a_page_that_cannot_be_written_any_more_ends_no_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_page, "PAUSE_S", 0)
    said: list[str] = []
    folder = tmp_path / "pages"

    class Replacing(corank.Callback):
        def on_evaluate(self, event: TrainingEvaluation) -> None:
            if event.epoch == 1:
                folder.rename(tmp_path / "moved")
                folder.touch()

    page = TrainingPage(folder / "page.html", said.append)
    done = corank.train(world / "config.yaml", SMALL, [page, Replacing()], folder=tmp_path / "run")
    assert done.epoch == 2
    assert len(said) == 1 and "cannot be written" in said[0] and said[0].endswith("; the training goes on")


@pytest.mark.browser
@pytest.mark.slow
def test_a_browser_shows_the_page_without_a_network(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    corank.train(world / "config.yaml", SMALL, folder=tmp_path / "run", page=path)
    with chromium(tmp_path / "profile", width=500) as window:
        asked(window)
        window.get(path.as_uri())
        assert asked(window) == [path.as_uri()] and faults(window) == []
        assert len(window.find_elements("css selector", "svg[role=img]")) == 6
        width = window.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert width <= 0, "the page is as wide as the window"
