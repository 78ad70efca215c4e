"""Where the weights of a run began, if not at random: the run that they were taken over from, as `run.json` says."""

from typing import Annotated, Literal

from annotated_types import Ge

from corank.core.settings import Settings

State = Literal["carried", "in part", "fresh", "gone"]


class CarriedPart(Settings):
    """The state of a part of the earlier model, or of the new one."""

    part: str
    """What it is: `rows` of a feature, `tables`, `scale`, `layers`, `optimiser`, `average`, `calibrators`."""
    name: str
    state: State
    note: str = ""
    """Counts, or why."""


class Origin(Settings):
    """The run that a training starts from, and what it took over."""

    run: str
    """Its folder, from the new run's, or its URL."""
    step: Annotated[int, Ge(0)]
    """Optimiser steps that led to its state."""
    epochs: Annotated[int, Ge(0)]
    """Epochs that led to its state."""
    codes: str
    """The hash of its encoders."""
    parts: list[CarriedPart]
    """What was carried over, begins fresh, or is gone."""

    def lines(self) -> list[str]:
        """The state of each part, a line each, in columns."""
        named = [(f"{part.part} {part.name}".rstrip(), part.state, part.note) for part in self.parts]
        width = max((len(name) for name, _, _ in named), default=0)
        return [f"  {name:{width}}  {state:7}  {note}".rstrip() for name, state, note in named]
