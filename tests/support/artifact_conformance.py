"""The contract of an artifact, which `corank/core/artifact.py` states, as tests that every place is put through.

A place has one artifact, whose contents are numbered from 1: what is read tells which of them was written. One class
tests a place, or a kind of artifact at it:

    class TestFolder(ArtifactConformance):
        @pytest.fixture
        def place(self, tmp_path: Path) -> Place:
            return FolderPlace(tmp_path)
"""

import json
import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from corank.core import artifact
from corank.core.artifact import (
    MANIFEST,
    ArtifactWriter,
    Manifest,
    digest,
    is_content,
    measure_files,
    new_content,
    open_folder,
)
from corank.core.artifact_cache import open_artifact
from corank.core.artifact_objects import Published, Publisher
from corank.core.errors import BusyError, CorankError, StorageError
from corank.core.objects import ObjectFolder, ObjectUrl
from tests.support.interruptions import after_first
from tests.support.kills import REQUEST, count_changes, fail_at, kill_at
from tests.support.object_store import ObjectStore

Job = tuple[Any, ...]
"""A function of a module and its arguments, for a process of its own."""


class NotesError(CorankError):
    """Notes cannot be read or written."""


class Notes(Manifest):
    """A kind of artifact for tests."""

    error: ClassVar[type[CorankError]] = NotesError
    missing: ClassVar[str] = "no notes here"
    remedy: ClassVar[str] = "write them again"
    most_bytes: ClassVar[int] = 1 << 16
    beside: ClassVar[frozenset[str]] = frozenset({"sets"})

    kind: str = "notes"
    format: int = 3
    text: str = ""


SAME = {"same": b"of all contents", "deep/er/empty": b""}


def files_of(n: int) -> dict[str, bytes]:
    """The files of content n."""
    return SAME | {"first": b"%04d" % n * 1000, "items/second": b"%08d" % n * 4000}


def fill(folder: Path, n: int) -> Notes:
    """Write the files of content n."""
    for name, content in files_of(n).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return Notes(text=str(n))


def number(folder: Path) -> int:
    """Tell which content a folder has. Fails if it is a part or a mix."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    n = int(files["first"][:4])
    assert files == files_of(n)
    return n


class Place(ABC):
    """A place with one artifact."""

    error: type[CorankError] = NotesError
    """Raised for what is damaged."""
    where: str
    """What messages about the manifest name."""
    reads: ClassVar[tuple[Any, str]] = artifact, "read_manifest"
    """The function that reads the manifest, and what has it."""

    @abstractmethod
    def fresh(self, name: str) -> Self:
        """Return another place of the kind, with nothing in it."""

    @abstractmethod
    def job(self, n: int) -> Job:
        """What writes content n."""

    def write(self, n: int) -> None:
        """Write content n."""
        function, *arguments = self.job(n)
        function(*arguments)

    @abstractmethod
    def read(self) -> int:
        """Read and verify all; tell which content it is. Raises `error`, also if there is none."""

    @abstractmethod
    def names(self) -> list[str]:
        """Name the stored files of the content, as messages do."""

    @abstractmethod
    def load(self, name: str) -> bytes:
        """The bytes of a stored file, or of MANIFEST."""

    @abstractmethod
    def store(self, name: str, content: bytes | None) -> None:
        """Replace a stored file, or MANIFEST; None removes it."""

    @abstractmethod
    def leftovers(self) -> set[str]:
        """What lies there and does not belong to the artifact."""

    def writing(self) -> AbstractContextManager[Callable[[], None]]:
        """Begin to write content 8, which the function completes; of a place at which a writer excludes others."""
        raise NotImplementedError

    def edit(self, **changes: Any) -> None:
        """Change fields of the manifest, and make its digest fit."""
        plain = json.loads(self.load(MANIFEST)) | changes
        sealed = {} if "digest" in changes else {"digest": digest(plain)}
        self.store(MANIFEST, json.dumps(plain | sealed).encode())

    def refusal(self) -> str:
        """The error of reading what is damaged."""
        with pytest.raises(self.error) as raised:
            self.read()
        return str(raised.value)


class FolderPlace(Place):
    """A folder of this machine, with notes."""

    kind: ClassVar[type[Manifest]] = Notes

    def __init__(self, root: Path, name: str = "notes") -> None:
        self.root, self.path = root, root / name
        self.where = str(self.path)

    def fresh(self, name: str) -> Self:
        (self.root / "fresh").mkdir(exist_ok=True)  # a writer that makes it has one step more
        return type(self)(self.root / "fresh", name)

    def job(self, n: int) -> Job:
        return self.replace, n

    def replace(self, n: int) -> None:
        """Write content n."""
        with ArtifactWriter.lock(self.path, self.kind, "note") as writer:
            self.put(writer, n)

    def put(self, writer: ArtifactWriter[Any], n: int) -> None:
        """Write content n by a writer."""
        writer.write(new_content(), lambda folder: fill(folder, n))

    def read(self) -> int:
        return number(open_folder(self.path, Notes).folder)

    @property
    def content(self) -> Path:
        """The folder of the content."""
        return self.path / str(json.loads(self.load(MANIFEST))["content"])

    def names(self) -> list[str]:
        return [str(p.relative_to(self.content)) for p in self.content.rglob("*") if p.is_file()]

    def _file(self, name: str) -> Path:
        return self.path / name if name == MANIFEST else self.content / name

    def load(self, name: str) -> bytes:
        return self._file(name).read_bytes()

    def store(self, name: str, content: bytes | None) -> None:
        self._file(name).unlink(missing_ok=True)
        if content is not None:
            self._file(name).write_bytes(content)

    def leftovers(self) -> set[str]:
        left = {path.name for path in self.path.iterdir()} - {MANIFEST, self.content.name}
        former = set(filter(is_content, left))
        return left if len(former) > 1 else left - former

    @contextmanager
    def writing(self) -> Iterator[Callable[[], None]]:
        with ArtifactWriter.lock(self.path, self.kind, "note") as writer:
            yield lambda: self.put(writer, 8)


class ObjectPlace(Place):
    """A URL of an object store, with notes."""

    error = StorageError
    reads = Published, "open"

    def __init__(self, store: ObjectStore, work: Path, name: str = "notes") -> None:
        self.bucket, self.work, self.name = store, work, name
        self.url = ObjectUrl.parse(f"{store.url}/{name}")
        self.where = str(self.url)

    def fresh(self, name: str) -> Self:
        return type(self)(self.bucket, self.work, name)

    def job(self, n: int) -> Job:
        return publish_notes, self.bucket.environment, self.url, *_make_notes(self.work, n)

    def read(self) -> int:
        return number(open_artifact(self.url, Notes).folder)

    @property
    def _places(self) -> dict[str, str]:
        places: dict[str, str] = json.loads(self.load(MANIFEST))["places"]
        return places

    def names(self) -> list[str]:
        return [f"{place}/{name}" for name, place in self._places.items()]

    def load(self, name: str) -> bytes:
        return self.bucket.get(f"{self.name}/{name}")

    def store(self, name: str, content: bytes | None) -> None:
        key = f"{self.name}/{name}"
        self.bucket.delete(key) if content is None else self.bucket.put(key, content)
        shutil.rmtree(self.work / "cache", ignore_errors=True)

    def leftovers(self) -> set[str]:
        keys = {key.removeprefix(f"{self.name}/") for key in self.bucket.names(f"{self.name}/")}
        return keys - {MANIFEST, *self.names()}

    @contextmanager
    def writing(self) -> Iterator[Callable[[], None]]:
        publisher = Publisher.open(self.url, Notes)

        def complete() -> None:
            publisher.publish(*_make_notes(self.work, 8))

        yield complete


def _make_notes(work: Path, n: int) -> tuple[Path, Notes]:
    folder = work / f"{n}-{os.urandom(4).hex()}"
    notes = fill(folder, n)
    return folder, notes.model_copy(update={"content": new_content(), "files": measure_files(folder)})


def publish_notes(environment: dict[str, str], url: ObjectUrl, folder: Path, manifest: Notes) -> None:
    """Publish notes to a URL; each request counts as a change."""
    os.environ.update(environment)
    errors = ObjectFolder._errors

    def announce(objects: ObjectFolder, name: str) -> AbstractContextManager[None]:
        sys.audit(REQUEST, StorageError)
        return errors(objects, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectFolder, "_errors", announce)
        Publisher.open(url, Notes).publish(folder, manifest)


class ArtifactConformance:
    """Tests of one place."""

    steps: ClassVar[int] = 1
    """Of the steps of a writer, the last and every so many-th before it are those at which it is killed."""
    meanwhile: ClassVar[int] = 3
    """The content that is read if 2 and 3 are written meanwhile."""

    def test_what_was_written_is_read(self, place: Place) -> None:
        for n in (1, 2, 3):
            place.write(n)
            assert place.read() == n
            assert not place.leftovers()

    def test_a_first_writer_may_be_killed_at_any_step(self, place: Place) -> None:
        for step in self._steps(place, 0):
            one = place.fresh(f"first-{step}")
            kill_at(step, *one.job(2))
            self._check_next(one, step)

    def test_the_old_or_the_new_is_read_wherever_a_writer_is_killed(self, place: Place) -> None:
        seen = set()
        for step in self._steps(place, 1):
            one = place.fresh(f"killed-{step}")
            one.write(1)
            kill_at(step, *one.job(2))
            seen.add(one.read())
            self._check_next(one, step)
        assert 1 in seen and seen <= {1, 2}

    def test_a_writer_that_fails_at_any_step_leaves_the_old(self, place: Place) -> None:
        for step in self._steps(place, 1):
            one = place.fresh(f"failed-{step}")
            one.write(1)
            error = fail_at(step, *one.job(2))
            assert one.read() == (2 if error is None or "it is replaced" in error else 1), step
            self._check_next(one, step)

    def _steps(self, place: Place, before: int) -> range:
        counted = place.fresh("counted")
        if before:
            counted.write(before)
        return range(count_changes(*counted.job(2)), 0, -self.steps)

    def _check_next(self, place: Place, step: int) -> None:
        """Check that the next writer succeeds, and leaves nothing of the one before."""
        place.write(3)
        assert place.read() == 3 and not place.leftovers(), step

    def test_damage_is_refused_and_named(self, place: Place) -> None:
        place.write(1)
        names = place.names()
        for name, content in [(name, place.load(name)) for name in names[:: len(names) // 6 + 1]]:
            damaged: list[bytes | None] = [content + b"x", None]
            if content:
                damaged += [content[:-1], bytes([content[0] ^ 1]) + content[1:]]
            for other in damaged:
                place.store(name, other)
                assert name in place.refusal()
            place.store(name, content)
        assert place.read() == 1

    def test_exchanged_files_are_refused(self, place: Place) -> None:
        place.write(1)
        earlier = {name: place.load(name) for name in place.names()}
        place.write(2)
        later = {name: place.load(name) for name in place.names()}
        first, *others = sorted(later, key=lambda name: -len(later[name]))
        pairs = [(first, max(earlier.values(), key=len)), *((first, later[name]) for name in others[:1])]
        for name, content in pairs:
            if content == later[name]:
                continue  # of a bundle whose contents differ in the manifest alone
            place.store(name, content)
            assert name in place.refusal()
            place.store(name, later[name])
        assert place.read() == 2

    def test_nothing_of_a_manifest_is_trusted(self, place: Place) -> None:
        place.write(1)
        sound = place.load(MANIFEST)
        files = json.loads(sound)["files"]
        some = min(files)
        file = files[some]
        hostile = ("../x", "/etc/x", "a/../../x", ".hidden", "a//b", "", "a\0b", "x" * 300, "a/", "..")
        changes: list[dict[str, Any]] = [
            *({"files": files | {name: file}} for name in hostile),
            *({"files": files | {some: file | {"bytes": size}}} for size in (-1, 2**60, 1.5, "1", None)),
            *({"files": files | {some: file | {"sha256": text}}} for text in ("", "g" * 64, 0, "0" * 64)),
            *({"content": name} for name in ("../x", "/tmp", "a/b", "..", ".", "", "x" * 300, ".git")),
            {"kind": "another"},
            *({"format": form} for form in (0, 99, "3", None, 10**30)),
            *({"digest": text} for text in ("", "0" * 64)),
            {"files": []},
            {"unknown": 1},
        ]
        for change in changes:
            place.edit(**change)
            assert place.where in place.refusal(), change
            place.store(MANIFEST, sound)
        for raw in (
            b"",
            b"[" * 100_000,
            b"[]",
            b"{}",
            b"null",
            b"\xff",
            sound[:-9],
            b'{"a":' * 90 + b"1" + b"}" * 90,
        ):
            place.store(MANIFEST, raw)
            assert place.where in place.refusal(), raw[:20]
        place.store(MANIFEST, None)
        place.refusal()
        place.store(MANIFEST, sound)
        assert place.read() == 1

    def test_a_reader_of_what_is_replaced_reads_the_new(self, place: Place) -> None:
        place.write(1)

        def replace_twice() -> None:
            place.write(2)
            place.write(3)

        with after_first(*place.reads, replace_twice):
            assert place.read() == self.meanwhile


class ExclusiveConformance(ArtifactConformance):
    """Tests of a place at which one writer excludes another."""

    def test_of_two_writers_one_is_refused_and_changes_nothing(self, place: Place) -> None:
        place.write(1)
        refused: CorankError
        with place.writing() as complete:
            try:
                place.write(2)
            except BusyError as error:
                refused, expected = error, 8
                assert place.read() == 1
                complete()
            else:
                with pytest.raises(CorankError) as raised:
                    complete()
                refused, expected = raised.value, 2
        assert self.tells_of_another(str(refused)), refused
        assert place.read() == expected
        place.write(3)
        assert not place.leftovers()

    def tells_of_another(self, message: str) -> object:
        """Whether the message of a refused writer says who writes, or what came between."""
        return f"(process {os.getpid()} on " in message or re.search(
            "another process has published there|replaced by another program", message
        )
