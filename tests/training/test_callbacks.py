"""Callbacks: every hook in its order, several at once, and errors that end a training."""

from pathlib import Path
from typing import Any

import pytest

import corank
from corank.training.callbacks import TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart

pytestmark = pytest.mark.slow

SMALL = ("train.requests=24", "train.epochs=2", "train.checkpoint_every=15")


class Recording(corank.Callback):
    """Keeps every event, by its hook, in a list that several may share."""

    def __init__(self, events: list[tuple[str, Any]]) -> None:
        self.events = events

    def on_start(self, event: TrainingStart) -> None:
        self.events.append(("start", event))

    def on_log(self, event: TrainingLog) -> None:
        self.events.append(("log", event))

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        self.events.append(("evaluate", event))

    def on_checkpoint(self, event: Any) -> None:
        self.events.append(("checkpoint", event))

    def on_end(self, event: TrainingEnd) -> None:
        self.events.append(("end", event))


class Raising(corank.Callback):
    """Raises in one hook."""

    def __init__(self, hook: str, text: str = "enough") -> None:
        def fail(event: object) -> None:
            raise RuntimeError(text)

        setattr(self, hook, fail)


def test_every_hook_is_called_in_order_with_what_happened(world: Path, tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    done = corank.train(
        world / "config.yaml", SMALL, [Recording(events), Recording(events)], folder=tmp_path / "run"
    )
    assert events[::2] == events[1::2], "both are told, one after the other"
    hooks, reports = zip(*events[::2], strict=True)
    assert hooks[0] == "start" and hooks[-1] == "end"
    assert hooks.count("evaluate") == 2 and hooks[hooks.index("evaluate") + 1] == "checkpoint"
    plan, end = reports[0].plan, reports[-1]
    assert (plan.epochs, plan.epochs_done, plan.step, plan.ranks) == (2, 0, 0, 1)
    logs = [event for event in reports if isinstance(event, TrainingLog)]
    assert {event.batches for event in logs} == {plan.batches}
    assert [event.step for event in logs] == sorted({event.step for event in logs})
    assert logs[-1].step == 2 * plan.batches and logs[-1].epoch == 2 and logs[-1].batch == plan.batches
    assert all(event.candidates_per_second > 0 and "rank.click" in event.losses for event in logs)
    last = next(event for event in reports[::-1] if isinstance(event, TrainingEvaluation))
    assert (last.epoch, last.epochs, last.learners, last.best) == (2, 2, None, True)
    assert end.run.folder == done.run.folder and end.error is None
    assert end.epoch == done.epoch and dict(end.metrics) == done.metrics == dict(last.metrics)
    checkpoints = [event for hook, event in zip(hooks, reports, strict=True) if hook == "checkpoint"]
    assert [event.step for event in checkpoints if event.batches_done] == [
        step for step in range(15, 2 * plan.batches, 15) if step % plan.batches
    ]
    assert all(event.path.exists() for event in checkpoints)


@pytest.mark.parametrize("hook", ["on_start", "on_log", "on_evaluate", "on_checkpoint"])
def test_an_error_in_a_callback_ends_the_training_with_its_own_message(
    world: Path, tmp_path: Path, hook: str
) -> None:
    events: list[tuple[str, Any]] = []
    callbacks = [Recording(events), Raising(hook), Recording(events)]
    with pytest.raises(RuntimeError, match="enough") as raised:
        corank.train(world / "config.yaml", SMALL, callbacks, folder=tmp_path)
    assert raised.value.__notes__ == [f"raised by the callback Raising.{hook}"]
    ends = [event for name, event in events if name == "end"]
    assert len(ends) == (1 if hook == "on_start" else 2), "those that had not started are told of no end"
    assert all(end.error is raised.value and end.epoch is None for end in ends)
    again = corank.train(world / "config.yaml", SMALL, resume=True, folder=tmp_path)
    assert again.epoch == 2
