"""`run.json`: the config of a run, where its data lie, and the run whose weights it took over."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge
from pydantic import ConfigDict, Field

from corank.core.errors import CheckpointError
from corank.core.files import atomic_file, parse_json, read_regular_file
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


RUN_FILE = "run.json"
TRACKING = "tracking"
"""Folder of a run with a file for each tracker: what it needs to continue its run."""
MOST_BYTES = 1 << 24
"""Bytes of the file, at most."""


class RunFile(Settings):
    """The contents of `run.json`."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    config: dict[str, Any]
    """Plain values, every default written out."""
    base: str
    """Where the relative paths of the config begin: from the run's folder, or from the root."""
    origin: Origin | None = Field(None, alias="from")
    """The run whose weights it took over."""
    packed: str | None = None
    """The fingerprint of the packed data, of which a config may have several that continue others."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a run. Raises CheckpointError if there is none, or it is damaged."""
        path = folder / RUN_FILE
        try:
            run_file = cls.model_validate(parse_json(read_regular_file(folder, RUN_FILE, MOST_BYTES)))
            run_file.base_of(folder)
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(f"{folder}: not a run (no {RUN_FILE}); `corank train` makes one") from None
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"{path}: damaged or no run ({reason}); train again") from None
        return run_file

    def base_of(self, folder: Path) -> Path:
        """Where the config's relative paths begin, of a run in a folder. Raises OSError, ValueError for no path."""
        return (folder / self.base).resolve()

    def write(self, folder: Path) -> None:
        """Write the file whole or not at all. Raises OSError."""
        document = {"config": self.config, "base": self.base}
        if self.origin is not None:
            document["from"] = self.origin.model_dump(mode="json")
        if self.packed is not None:
            document["packed"] = self.packed
        with atomic_file(folder / RUN_FILE) as partial:
            partial.write_text(json.dumps(document, indent=1), encoding="utf-8")
