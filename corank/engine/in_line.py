"""The engine of one worker: this process."""

from collections.abc import Callable, Generator, Sequence

from corank.core.errors import EngineError
from corank.engine.base import ENGINES, Engine
from corank.engine.job import Job, JobOutcome


@ENGINES.register("in_line")
class InLineEngine(Engine):
    """Runs tasks one after another in this process."""

    def __init__(self, workers: int = 1, address: str | None = None) -> None:
        """Raises EngineError for several workers."""
        if workers > 1:
            raise EngineError(
                f"--workers {workers}: the engine in_line has one; leave it out, or name another"
            )
        super().__init__(workers, address)

    def outcomes(self, run: Callable[[Job], JobOutcome], jobs: Sequence[Job]) -> Generator[JobOutcome]:
        """Run the jobs in their order."""
        yield from map(run, jobs)
