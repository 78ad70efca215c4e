"""The settings of a daily funnel, and the paths of its periods' files."""

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from corank.api.config_source import OpenedConfig
from corank.bundle.items_as_of import ItemsAsOf
from corank.continual.history import PeriodRecord, find_live
from corank.continual.settings import DailySettings
from corank.continual.steps import PeriodSteps
from corank.core.types import Report
from corank.serving.store.base import open_store
from corank.serving.store.live_version import StoreState

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
        steps = PeriodSteps(self.of(period))
        return self.of(period) / steps.find("pack")["location"] if steps.is_done("pack") else None


def remove_old(setup: DailySetup, records: Sequence[PeriodRecord], keep: int) -> None:
    """Remove packed data, runs and bundles of periods beyond the newest, but those of the live run."""
    live = find_live(records)
    for record in records[:-keep]:
        if live is None or record.period != live.period:
            for name in (RUN, BUNDLE, PACKED, f"{PACKED}.continued"):
                shutil.rmtree(setup.of(record.period) / name, ignore_errors=True)
