"""The settings of a daily funnel, and the files of its periods.

A period has steps, each of which writes one file: a step whose file exists is not done again.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from corank.api.config_source import OpenedConfig
from corank.bundle.manifest import ItemsAsOf
from corank.core.errors import DataError
from corank.core.files import atomic_file
from corank.core.reports import Report
from corank_continual.periods.history import PeriodRecord, find_live
from corank_continual.periods.settings import DailySettings
from corank_serve.store.base import open_store
from corank_serve.store.live_version import StoreState

BEGIN = "begin"
"""The step that records the inputs of the others."""


class _DoneStep(msgspec.Struct, frozen=True):
    """The file of a step."""

    seconds: float
    result: dict[str, Any]


@dataclass
class PeriodSteps:
    """The folder of a period, with a JSON file a step that is done."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step; of a step that was done before a kill, what it took then."""

    def begin(self, facts: dict[str, Any]) -> None:
        """Begin or continue a period; results of other facts, such as another config, are removed.

        Raises DataError if a file of it is damaged.
        """
        if self.find(BEGIN) != facts:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
            self._write(BEGIN, facts, 0.0)

    def do(self, name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a step, or read its result if it is done. The result is JSON. Raises DataError if its file is damaged."""
        if not self._path(name).exists():
            began = time.perf_counter()
            outcome = step()
            self._write(name, outcome, time.perf_counter() - began)
        done = self._read(name)
        self.seconds[name] = done.seconds
        return done.result

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the result of a step; None if it is not done. Raises DataError if its file is damaged."""
        return self._read(name).result if self._path(name).exists() else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _write(self, name: str, result: dict[str, Any], seconds: float) -> None:
        with atomic_file(self._path(name)) as partial:
            partial.write_text(json.dumps({"seconds": round(seconds, 3), "result": result}, indent=1))

    def _read(self, name: str) -> _DoneStep:
        path = self._path(name)
        try:
            return msgspec.convert(json.loads(path.read_bytes()), _DoneStep)
        except (OSError, ValueError, msgspec.ValidationError):
            raise DataError(f"{path}: damaged; remove {self.folder}, and the period is tried again") from None


RUN, BUNDLE, PACKED = "run", "bundle", "packed"
"""Folders of a period; packed data that continue others are next to the last."""


@dataclass(frozen=True)
class DailySetup:
    """The settings of a daily funnel, and the paths of its files."""

    settings: DailySettings
    base: Path
    """Relative paths of the settings begin here."""
    opened: OpenedConfig
    """The config that is trained."""
    report: Report
    items_as_of: ItemsAsOf | None = None
    """What the table of items contains; None if it is not known."""

    @property
    def config(self) -> Path:
        """The file of the config that is trained."""
        return self.base / self.settings.config

    @property
    def folder(self) -> Path:
        """Of the history, its page, and all periods."""
        return self.base / self.settings.folder

    @property
    def store(self) -> str | None:
        """The store's address; an LMDB store's path begins in the settings' folder."""
        kind, _, path = (self.settings.store or "").partition(":")
        return f"lmdb:{(self.base / path).absolute()}" if kind == "lmdb" else self.settings.store

    def read_store(self) -> StoreState | None:
        """Read what the store serves; None without a store. Raises StoreError."""
        if self.store is None:
            return None
        with closing(open_store(self.store, create=True)) as opened:  # as publishing does
            return StoreState.read(opened)[1]

    def of(self, period: str) -> Path:
        """The folder of a period."""
        return self.folder / "periods" / period

    def packed_of(self, period: str) -> Path | None:
        """The packed data of a period; None if it was not packed."""
        done = PeriodSteps(self.of(period)).find("pack")
        return None if done is None else self.of(period) / done["location"]


def remove_old(setup: DailySetup, records: Sequence[PeriodRecord], keep: int) -> None:
    """Remove packed data, runs and bundles of periods beyond the newest, but those of the live run."""
    live = find_live(records)
    for record in records[:-keep]:
        if live is None or record.period != live.period:
            for name in (RUN, BUNDLE, PACKED, f"{PACKED}.continued"):
                shutil.rmtree(setup.of(record.period) / name, ignore_errors=True)
