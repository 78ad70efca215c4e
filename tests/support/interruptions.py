"""Trainings that are interrupted, what comes between two steps, and runs compared bit by bit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import corank
from corank.training.callbacks import TrainingLog
from corank.training.checkpoints.checkpoint_files import load
from corank.training.run import Run
from tests.support.simulated_runs import Silent


class _StoppedError(Exception):
    """Raised by the callback below."""


class Interrupting(Silent):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def on_log(self, event: TrainingLog) -> None:
        super().on_log(event)
        if len(self.losses) == self.calls:
            raise _StoppedError


def interrupt(stop: Interrupting, config: Path, overrides: Sequence[str], **options: Any) -> None:
    """Train, as `corank.train`, until the callback ends it; it ends with an error otherwise."""
    callbacks = [*options.pop("callbacks", ()), stop]
    with pytest.raises(_StoppedError):
        corank.train(config, overrides, callbacks, **options)


@contextmanager
def after_first(owner: Any, name: str, act: Callable[[], object]) -> Iterator[None]:
    """Let something happen once, after the first call of a function."""
    function, acts = getattr(owner, name), [act]

    def call_then_act(*arguments: Any) -> Any:
        value = function(*arguments)
        while acts:
            acts.pop()()
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call_then_act)
        yield


def same(a: Run, b: Run, name: str = "model") -> bool:
    """Whether two runs hold the same tensors, bit by bit, and the same facts."""
    ours, theirs = (load(run.folder / name) for run in (a, b))
    return (
        ours.facts == theirs.facts
        and ours.tensors.keys() == theirs.tensors.keys()
        and all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())
    )
