"""A training whose run lies in object storage: a working folder on this machine, published after each checkpoint."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from corank.core.artifact import MANIFEST, Manifest, is_content, measure_files, new_content, parse_damaged
from corank.core.artifact_cache import ArtifactCache, working_folder
from corank.core.artifact_objects import Publisher
from corank.core.errors import BusyError, CorankError, StorageError
from corank.core.files import PARTIAL
from corank.core.objects import ObjectUrl
from corank.core.reports import Report


class RunManifest(Manifest):
    """The manifest of a run in object storage: the folder of a training, file by file."""

    error: ClassVar[type[CorankError]] = StorageError
    missing: ClassVar[str] = "no run here"
    remedy: ClassVar[str] = "train again with another URL as --run"

    kind: str = "run"
    format: int = 1


@dataclass
class RunPublisher:
    """Publishes the working folder of a training, in the background while it trains."""

    folder: Path
    """Of the run; files in it are replaced, or appended to below `events`."""
    publisher: Publisher[RunManifest]
    report: Report
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "publish"), init=False)
    _last: Future[None] | None = field(default=None, init=False)

    def publish(self) -> None:
        """Begin to publish the folder as it is now.

        If the store does not answer, that is reported, and the next publication takes all of it.

        Raises BusyError if another process has published there.
        """
        error = self.wait()
        if isinstance(error, StorageError):
            self.report(f"training on: the checkpoint was not published: {error}")
        elif error is not None:
            raise error
        self._last = self._pool.submit(self._publish, self._take_snapshot())

    def finish(self) -> None:
        """Publish the folder as it is now, and wait. Raises BusyError, StorageError."""
        self.publish()
        if (error := self.wait()) is not None:
            raise error

    def wait(self) -> BaseException | None:
        """Wait until the last publication has ended, and return why it failed; None if it did not."""
        return None if self._last is None else self._last.exception()

    def _publish(self, snapshot: Path) -> None:
        try:
            manifest = RunManifest(content=new_content(), files=measure_files(snapshot))
            self.publisher.publish(snapshot, manifest)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be read: {error}") from None
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)

    def _take_snapshot(self) -> Path:
        """Link the files into an adjacent folder: checkpoints are replaced whole. What is appended to is copied."""
        snapshot = self.folder.with_name(f"{PARTIAL}snapshot")
        shutil.copytree(
            self.folder,
            snapshot,
            ignore=_left_out,
            copy_function=_link_or_copy,
        )
        return snapshot


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Hidden files, and contents of checkpoints that are not, or no more, the live one."""
    live = parse_damaged(Path(folder, MANIFEST).read_bytes()).get("content") if MANIFEST in names else None
    return {name for name in names if name.startswith(".") or (is_content(name) and name != live)}


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).parent.name == "events":
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


@contextmanager
def open_remote_run(url: ObjectUrl, report: Report) -> Iterator[RunPublisher]:
    """Get the working folder of a training, with what is published at its URL; all of it is published at the end.

    If the store refuses it, the folder is kept elsewhere, and the error names it.

    Raises BusyError, StorageError.
    """
    publisher, cache = Publisher.open(url, RunManifest), ArtifactCache.of_environment()
    with working_folder() as working:
        folder = working / url.split()[1]
        if publisher.before is not None:
            shutil.copytree(cache.fetch(publisher.before).folder, folder)
        else:
            folder.mkdir()
        run = RunPublisher(folder, publisher, report)
        try:
            yield run
            run.finish()
            if publisher.before is not None:
                cache.keep(publisher.before.manifest, folder)
        except (BusyError, StorageError) as error:
            if error is not run.wait():
                raise
            kept = cache.folder / f"run-{os.urandom(4).hex()}"
            folder.rename(kept)
            raise type(error)(f"{error}; the run is kept in {kept}") from None
        finally:
            run.wait()
