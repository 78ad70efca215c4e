"""The logs of a service by role: what was answered in one folder, what the shadow would have answered below it.

Each role has its own log: versions may have different columns, and one file has one schema.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from corank.core.errors import CorankError
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.log.file_limits import MAX_SECONDS
from corank.serving.log.request_log import RequestLog
from corank.serving.role import LIVE, SHADOW, Role

SHADOW_FOLDER = "shadow"
"""Folder of the shadow's log within the log: no training shall read it, since nobody saw its answers."""


class RoleLogs:
    """Writes `FOLDER/served-*.parquet` and `FOLDER/shadow/served-*.parquet`. Safe to share between threads."""

    def __init__(
        self, folder: Path, share: float = 1.0, seconds: float = MAX_SECONDS, roles: Iterable[Role] = (LIVE,)
    ) -> None:
        """Open the log of each role; the other parameters are those of `RequestLog`.

        Raises CorankError if a folder cannot be made.
        """
        self._logs = {
            role: RequestLog(folder / SHADOW_FOLDER if role == SHADOW else folder, share, seconds)
            for role in roles
        }

    def add(self, funnel: Funnel, result: RankingResult, role: Role, id_: str | None = None) -> str | None:
        """Keep a request, as `RequestLog.add`."""
        return self._logs[role].add(funnel, result, role, id_)

    def is_due(self) -> bool:
        """Whether there is something to write, or a file to complete."""
        return any(log.is_due() for log in self._logs.values())

    def take_counts(self) -> dict[str, int]:
        """Requests `written`, `rejected` and `dropped` since the last call, of all roles."""
        counts: Counter[str] = Counter()
        for log in self._logs.values():
            counts.update(log.take_counts())
        return dict(counts)

    def flush(self, complete: bool = False) -> None:
        """Write the requests that wait; complete the files if they are due, or if `complete` is set.

        Raises CorankError if the disk refuses, once all logs have been tried.
        """
        errors: list[CorankError] = []
        for log in self._logs.values():
            try:
                log.flush(complete)
            except CorankError as error:
                errors.append(error)
        if errors:
            raise errors[0]
