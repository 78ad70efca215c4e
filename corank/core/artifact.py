"""An artifact: files that are published whole, under a manifest that names them. Here on a local disk.

    FOLDER/manifest.json    kind, format, facts, size and SHA-256 of every file; written last, replaced in one rename
    FOLDER/<content>/…      the files; a content folder has a name of its own and never changes
    FOLDER/.lock            of the one process that writes

The contract, at every place (`artifact_objects.py`: object storage; `corank_serve.store`: a store of bytes), which
`tests/support/artifact_conformance.py` tests:

- A reader gets the old content or the new one, never a part or a mix, wherever a writer is killed, or fails: on a full
  disk, on a read-only one, at a store that refuses.
- What is read is what was written: a file that is absent, truncated, altered, exchanged or a link is an error that
  names it, and nothing of a manifest is trusted: kind, format, names, sizes and its own digest are checked.
- Of two writers one wins; the other gets BusyError, or an error that says that the artifact was replaced, and changes
  nothing. In a store both versions are complete, and the last one is live.
- A content that was replaced stays for its readers until the next writer begins, which also removes what a killed one
  left, and nothing else: files and folders of a user stay, and a folder of something else is refused. What is mapped
  stays readable even then.

Bundles, packed data, checkpoints and runs are kinds: subclasses of `Manifest` with the facts of the kind.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Protocol, Self, TypeVar

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field

from corank.core.errors import ConfigError, CorankError
from corank.core.files import (
    atomic_file,
    is_plain_name,
    is_relative_name,
    list_files,
    open_regular_file,
    parse_json,
    read_regular_file,
    run_in_threads,
    sync,
    sync_folder,
)
from corank.core.locks import WriteLock
from corank.core.settings import Settings, validate

MANIFEST = "manifest.json"
"""The manifest's name."""
MOST_FILES = 1_000_000
"""Files of an artifact, at most."""
CHUNK = 1 << 22
"""Bytes of a file that are read at once."""
HASHED_AT_ONCE = 4
"""Files whose checksums are computed at once."""
_CONTENT = re.compile(r"content-[0-9a-f]{16}|[0-9a-f]{16}-[0-9]{1,19}-[0-9a-f]{8}")
_NONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL})
"""What opening a manifest says if there is none, or a link, a pipe or a folder in its place."""


def _folder_name(name: str) -> str:
    if name and not is_plain_name(name):
        raise ValueError(f"expected the name of a folder, without a path; received {name[:200]!r}")
    return name


def _file_name(name: str) -> str:
    if not is_relative_name(name):
        raise ValueError(f"expected a relative name; received {name[:200]!r}")
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]
"""The name of a folder; empty of an artifact that is yet to be written."""
FileName = Annotated[str, AfterValidator(_file_name)]
"""The name of a file within a content, with `/` between its segments."""


class File(Settings):
    """Size and checksum of a file."""

    bytes: Annotated[int, Ge(0), Le(2**50)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def measure(cls, file: BufferedReader) -> Self:
        """Compute size and checksum of an open file. Raises OSError."""
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(bytes=os.fstat(file.fileno()).st_size, sha256=hashed)


class Manifest(Settings):
    """The manifest of an artifact. A kind is a subclass, with its facts as further fields."""

    error: ClassVar[type[CorankError]]
    """Raised for an artifact of this kind that cannot be read or written."""
    disk_error: ClassVar[type[CorankError] | None] = None
    """Raised for a folder that cannot be written, if it is not `error`."""
    missing: ClassVar[str]
    """What to say of a folder without a manifest."""
    remedy: ClassVar[str]
    """What a user does about a damaged artifact."""
    most_bytes: ClassVar[int] = 1 << 26
    """Bytes of a manifest, at most."""
    beside: ClassVar[frozenset[str]] = frozenset()
    """Further names that a folder of this kind may hold next to its contents."""

    kind: str
    """The default is the kind's name."""
    format: int
    """The default is the format that is written, and the one that is read."""
    content: FolderName = ""
    """The name of the content folder."""
    files: dict[FileName, File] = Field({}, max_length=MOST_FILES)
    """All files of the content."""
    digest: str = ""
    """Of the manifest itself, without this field, its places and its signatures."""
    places: dict[FileName, FolderName] = {}
    """In object storage, the folder that holds a file: one that did not change stays where it was sent first."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files.values())

    @classmethod
    def written_format(cls) -> int:
        """The format that is written, and the one that is read."""
        form: int = cls.model_fields["format"].default
        return form

    @classmethod
    def kind_name(cls) -> str:
        """The name of the kind."""
        name: str = cls.model_fields["kind"].default
        return name

    @classmethod
    def explain(cls, plain: Any) -> str:
        """Say what to do about a manifest that cannot be read."""
        return cls.remedy

    def plain(self) -> dict[str, Any]:
        """Return the manifest as a JSON value."""
        plain: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return plain

    def sealed(self) -> dict[str, Any]:
        """Return the manifest as a JSON value with its digest."""
        plain = self.plain()
        return plain | {"digest": digest(plain)}


M = TypeVar("M", bound=Manifest)
Inspect = Callable[[Any], None]
"""Takes the JSON value of a manifest before it is read, such as to verify signatures."""
Wanted = Callable[[str], bool]
"""Name of a file → whether it is needed."""


def canonical(plain: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest's JSON value that its digest and its signatures are of."""
    fields = {key: value for key, value in plain.items() if key not in ("signatures", "places")}
    return json.dumps(fields | {"digest": ""}, sort_keys=True).encode()


def digest(plain: Mapping[str, Any]) -> str:
    """Hash the JSON value of a manifest."""
    return hashlib.sha256(canonical(plain)).hexdigest()


def parse_manifest(
    raw: bytes, kind: type[M], source: str, inspect: Inspect | None = None, sealed: bool = True
) -> M:
    """Read and check a manifest: nothing in it is trusted.

    Args:
        raw: its bytes.
        kind: the kind that it must be of.
        source: where it lies, for messages.
        inspect: is called before it is validated.
        sealed: whether it has its digest.

    Raises the kind's error, and what `inspect` raises.
    """
    if len(raw) > kind.most_bytes:
        raise kind.error(f"{source}: {len(raw):,} bytes; at most {kind.most_bytes:,} are read")
    try:
        plain = parse_json(raw)
    except ValueError as error:
        raise kind.error(f"{source}: damaged ({error}); {kind.remedy}") from None
    if isinstance(plain, dict):
        _refuse_other(plain, kind, source)
    if inspect is not None:
        inspect(plain)
    if sealed and isinstance(plain, dict) and plain.get("digest") != digest(plain):
        raise kind.error(f"{source}: altered since it was written; {kind.remedy}")
    try:
        manifest = validate(kind, plain, source)
    except ConfigError as error:
        raise kind.error(f"{error}; {kind.explain(plain)}") from None
    if not manifest.content:
        raise kind.error(f"{source}: content: expected the name of a folder; {kind.remedy}")
    return manifest


def _refuse_other(plain: dict[str, Any], kind: type[Manifest], source: str) -> None:
    """Raise the kind's error for a manifest of another kind or format."""
    name, form = kind.kind_name(), kind.written_format()
    if isinstance(other := plain.get("kind", name), str) and other != name:
        raise kind.error(f"{source}: is of a {other[:40]!r}, and no {name}; name another folder")
    if plain.get("format", form) != form:
        raise kind.error(f"{source}: format {plain['format']!r:.40}; this corank reads {form}; {kind.remedy}")


def read_manifest(folder: Path, kind: type[M], inspect: Inspect | None = None) -> M:
    """Read the manifest of a folder. Raises the kind's error, and what `inspect` raises."""
    path = folder / MANIFEST
    try:
        raw = read_regular_file(folder, MANIFEST, kind.most_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise kind.error(f"{folder}: {kind.missing}") from None
    except OSError as error:
        raise kind.error(f"{path}: cannot be read ({error}); {kind.remedy}") from None
    manifest = parse_manifest(raw, kind, str(path), inspect)
    if manifest.places:
        raise kind.error(f"{path}: places: is of object storage; read it by its URL")
    return manifest


@dataclass(frozen=True)
class Artifact(Generic[M]):
    """A content that was checked."""

    folder: Path
    """Of the files."""
    manifest: M


class Proofs(Protocol):
    """Proofs of contents that were verified, such as a `set[bytes]`: their files are not read again.

    They are kept in memory, never in a file: whoever could write that could forge them.
    """

    def __contains__(self, proof: object, /) -> bool: ...

    def add(self, proof: bytes, /) -> None:
        """Note that what a proof is of was verified."""


def prove(folder: Path, manifest: Manifest) -> bytes:
    """Compute the proof of a content: a hash of its checksums, and of what the file system says of each file.

    That is which one it is, its size, and when its bytes and its status last changed. Whoever writes to a file changes
    the time of its status, which no call sets back. Make the proof before the files are read: what is written to them
    later gives another one.

    Raises OSError if the folder cannot be read.
    """
    proof = hashlib.sha256(repr(sorted((name, one.sha256) for name, one in manifest.files.items())).encode())
    for name in sorted(list_files(folder, MOST_FILES)):
        one = os.lstat(folder / name)
        facts = (name, one.st_dev, one.st_ino, one.st_mode, one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        proof.update(repr(facts).encode())
    return proof.digest()


def open_folder(
    path: Path,
    kind: type[M],
    inspect: Inspect | None = None,
    checksums: bool = True,
    wanted: Wanted = lambda name: True,
    proofs: Proofs | None = None,
) -> Artifact[M]:
    """Open the artifact of a folder.

    Args:
        path: the folder.
        kind: what it must be.
        inspect: takes the JSON value of the manifest.
        checksums: whether to compare checksums, too: all is read then. Names and sizes are compared in any case.
        wanted: which files are compared.
        proofs: of contents that need not be checked again; one that was checked is added.

    Raises the kind's error, and what `inspect` raises.
    """
    while True:
        manifest = read_manifest(path, kind, inspect)
        try:
            return _open_content(path, manifest, checksums, wanted, proofs)
        except kind.error:
            # it may have been replaced since its manifest was read, and the content removed
            with suppress(CorankError):
                if read_manifest(path, kind).content != manifest.content:
                    continue
            raise


def _open_content(
    path: Path, manifest: M, checksums: bool, wanted: Wanted, proofs: Proofs | None
) -> Artifact[M]:
    content = path / manifest.content
    proof = b""
    try:
        if content.is_symlink():
            raise NotADirectoryError("a link, or no folder")
        opened = Artifact(content, manifest)
        if proofs is not None and (proof := prove(content, manifest)) in proofs:
            return opened
        compare_files(path, manifest, wanted, checksums)
        _refuse_others(content, manifest)
    except OSError as error:
        raise _unreadable(content, manifest, error) from None
    if proofs is not None:
        proofs.add(proof)
    return opened


def compare_files(
    path: Path, manifest: Manifest, wanted: Wanted = lambda name: True, checksums: bool = True
) -> None:
    """Compare files of the artifact of a folder with its manifest.

    Args:
        path: the folder, of which the content stays meanwhile.
        manifest: of it.
        wanted: which files are compared.
        checksums: whether their checksums are, too, so that all is read.

    Raises the kind's error for a file that differs.
    """

    def compare(name: str) -> None:
        shown, file = path / manifest.content / name, manifest.files[name]
        try:
            with open_regular_file(path, f"{manifest.content}/{name}") as opened:
                size = os.fstat(opened.fileno()).st_size
                if size == file.bytes and (not checksums or File.measure(opened) == file):
                    return
        except OSError as error:
            raise _unreadable(shown, manifest, error) from None
        difference = (
            f"{size} bytes in place of {file.bytes}" if size != file.bytes else "its checksum differs"
        )
        raise manifest.error(f"{shown}: damaged, or of another version ({difference}); {manifest.remedy}")

    run_in_threads(compare, filter(wanted, manifest.files), HASHED_AT_ONCE)


def _unreadable(path: Path, manifest: Manifest, error: OSError) -> CorankError:
    return manifest.error(f"{path}: cannot be read ({error.strerror or error}); {manifest.remedy}")


def _refuse_others(content: Path, manifest: Manifest) -> None:
    """Raise the kind's error if a content holds a file that the manifest does not name: it would be read unchecked."""
    others = set(list_files(content, MOST_FILES)) - manifest.files.keys()
    if others:
        raise manifest.error(
            f"{content / min(others)}: is not named by the manifest; remove it; or {manifest.remedy}"
        )


def measure_files(folder: Path) -> dict[str, File]:
    """Compute size and checksum of every file of a folder, by relative names. Raises OSError."""

    def measure(name: str) -> File:
        with open_regular_file(folder, name) as file:
            return File.measure(file)

    names = sorted(list_files(folder, MOST_FILES))
    return dict(zip(names, run_in_threads(measure, names, HASHED_AT_ONCE), strict=True))


def measure_and_sync(folder: Path) -> dict[str, File]:
    """Compute size and checksum of every file of a folder while all of it is forced to disk. Raises OSError."""
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(sync_folder, folder)
        files = measure_files(folder)
        synced.result()
    return files


def is_content(name: str) -> bool:
    """Whether a name is one of a content folder: `content-` and 16 hex digits; of a bundle as `write_content` has it.

    Folders of these names are removed by the next writer, so that no others may match.
    """
    return _CONTENT.fullmatch(name) is not None


def new_content() -> str:
    """Draw the name of a content folder, which no other has."""
    return f"content-{os.urandom(8).hex()}"


@dataclass(frozen=True)
class ArtifactWriter(Generic[M]):
    """The right to replace the artifact of a folder, which one process at a time has.

    New content may depend on the artifact at the time of the lock: it is committed only if that is unchanged.

    Example:
        with ArtifactWriter.lock(path, BundleManifest, "refresh") as writer:
            writer.write(new_content(), fill)
    """

    path: Path
    kind: type[M]
    before: bytes | None
    """The manifest when the writer was made, as `_read_raw` reads it; None if there was none."""

    @classmethod
    def of(cls, path: Path, kind: type[M]) -> Self:
        """Make the writer of a folder that its caller has locked. Raises OSError."""
        return cls(path, kind, _read_raw(path, kind))

    @classmethod
    @contextmanager
    def lock(cls, path: Path, kind: type[M], command: str) -> Iterator[Self]:
        """Lock a folder, which is made, for a command of corank.

        Raises:
            BusyError: another process writes the artifact.
            CorankError: of the kind, if the folder holds something else, or cannot be written.
        """
        with ExitStack() as stack:
            try:
                _refuse_foreign(path, kind)
                stack.enter_context(WriteLock(path, command))
                writer = cls.of(path, kind)
                writer.prune()
            except OSError as error:
                raise _unwritable(path, kind, error) from None
            yield writer

    def begin(self, content: str) -> Path:
        """Make a folder of a new name for files; nobody reads it before `commit`. Raises OSError."""
        folder = self.path / content
        self.prune()
        folder.mkdir(parents=True)
        return folder

    @contextmanager
    def _writing(self, content: str) -> Iterator[Path]:
        """Make a folder for files, and remove it if the block fails. Raises the kind's error for OSError."""
        try:
            folder = self.begin(content)
        except OSError as error:
            raise _unwritable(self.path, self.kind, error) from None
        try:
            yield folder
        except BaseException as error:
            committed = self._names(content)
            if not committed:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise _unwritable(self.path, self.kind, error, committed) from None
            raise

    def _names(self, content: str) -> bool:
        """Whether the manifest names a content, as far as it can be read: it may be committed in spite of an error."""
        try:
            return _named(_read_raw(self.path, self.kind)) == content
        except OSError:
            return True

    def write(
        self,
        content: str,
        fill: Callable[[Path], M],
        seal: Callable[[M], M] = lambda manifest: manifest,
        files: Mapping[str, File] | None = None,
    ) -> Artifact[M]:
        """Replace the artifact by what a function writes.

        Args:
            content: the name of the new content.
            fill: writes the files into a folder, and returns the manifest with the facts.
            seal: as of `commit`.
            files: as of `commit`.

        Raises the kind's error if the disk refuses, or the artifact was replaced meanwhile; it is left as it is then.
        """
        with self._writing(content) as folder:
            return self.commit(folder, fill(folder), files, seal)

    def restore(
        self,
        manifest: M,
        plain: Mapping[str, Any],
        fill: Callable[[Path], None],
        explain: Callable[[], None] = lambda: None,
    ) -> Artifact[M]:
        """Replace the artifact by one that lies at another place. One of that content stays until all files are there.

        Args:
            manifest: of it.
            plain: its JSON value as published, which its signatures are of.
            fill: writes the files of the manifest into a folder.
            explain: raises what is wrong there, if it can tell, when a file is not what the manifest says.

        Raises the kind's error for such a file, or as `write`; what the functions raise.
        """
        with self._writing(new_content()) as folder:
            fill(folder)
            files, content = measure_and_sync(folder), self.path / manifest.content
            odd = {name for name in files | manifest.files if files.get(name) != manifest.files.get(name)}
            if odd:
                explain()
                raise self.kind.error(f"{content / min(odd)}: is not as published; publish it again")
            with suppress(FileNotFoundError):  # it is damaged; who reads it keeps it by another name
                content.rename(self.path / new_content())
            folder.rename(content)
            return self._switch(content, {**plain, "digest": digest(plain)})

    def commit(
        self,
        folder: Path,
        manifest: M,
        files: Mapping[str, File] | None = None,
        seal: Callable[[M], M] = lambda manifest: manifest,
    ) -> Artifact[M]:
        """Force a content to disk, and point the artifact to it.

        Args:
            folder: of the content, from `begin`.
            manifest: with the facts; content, files and digest are filled in here.
            files: size and checksum of each file, if they are known, and on disk; they are measured by default.
            seal: completes the manifest, such as by signatures.

        Raises:
            OSError: the disk refuses.
            CorankError: of the kind, if the artifact is another than when the writer was made. It stays as it is.
        """
        if files is None:
            files = measure_and_sync(folder)
        whole = manifest.model_copy(update={"content": folder.name, "files": dict(files), "places": {}})
        return self._switch(folder, seal(whole).sealed())

    def _switch(self, folder: Path, plain: dict[str, Any]) -> Artifact[M]:
        """Point the artifact to a content that is on disk, by the JSON value of its manifest."""
        raw = json.dumps(plain, indent=1).encode()
        manifest = parse_manifest(raw, self.kind, str(self.path / MANIFEST))  # a reader can
        if _read_raw(self.path, self.kind) != self.before:
            # commands of corank do not, on file systems with locks; a restored backup does, or a copy
            raise self.kind.error(
                f"{self.path}: was replaced by another program while this command ran; nothing was written; "
                "run it again"
            )
        with atomic_file(self.path / MANIFEST) as pointer:
            pointer.write_bytes(raw)
        if self.before is None:
            with suppress(PermissionError):
                sync(self.path.parent)  # the folder may be new
        return Artifact(folder, manifest)

    def prune(self) -> None:
        """Remove what was replaced before, or left by a killed writer: all contents but the live one."""
        with suppress(OSError):  # the next writer removes them
            live = _named(self.before)
            for path in [*self.path.iterdir()] if _read_raw(self.path, self.kind) == self.before else ():
                if is_content(path.name) and path.name != live and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)


def _read_raw(path: Path, kind: type[Manifest]) -> bytes | None:
    """Read a manifest, of one that is too long the begin; None if there is none. Raises OSError."""
    try:
        with open_regular_file(path, MANIFEST) as file:
            return file.read(kind.most_bytes + 1)
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise


def parse_damaged(raw: bytes | None) -> dict[str, Any]:
    """The JSON value of a manifest, whatever is wrong with it; empty if there is none."""
    with suppress(ValueError):
        plain = parse_json(raw or b"")
        return plain if isinstance(plain, dict) else {}
    return {}


def _named(raw: bytes | None) -> str | None:
    """The content that a manifest names, whatever else is wrong with it."""
    name = parse_damaged(raw).get("content")
    return name if isinstance(name, str) else None


def _unwritable(path: Path, kind: type[Manifest], error: OSError, committed: bool = False) -> CorankError:
    left = "it is replaced, but may not be on disk yet" if committed else "what was there before is untouched"
    return (kind.disk_error or kind.error)(
        f"{path}: cannot be written: {error}; {left}; free space, or name another"
    )


def _refuse_foreign(path: Path, kind: type[Manifest]) -> None:
    """Raise the kind's error if a folder holds anything but an artifact of the kind, which may be damaged."""
    if path.exists() and not path.is_dir():
        raise kind.error(f"{path}: exists and is no folder; name another")
    if not path.is_dir():
        return
    with suppress(CorankError):
        read_manifest(path, kind)
        return
    names = {inner.name for inner in path.iterdir() if not inner.name.startswith(".")}
    ours, facts, name = set(filter(is_content, names)), parse_damaged(_read_raw(path, kind)), kind.kind_name()
    if ours and facts.get("kind") in (None, name):
        ours |= kind.beside | {MANIFEST}
    if foreign := names - ours:
        raise kind.error(f"{path}: holds other files ({min(foreign)}) and no {name}; name another folder")
