"""The bundle: what is shipped. One manifest names one content folder, and every part's size and checksum.

    BUNDLE/manifest.json                     the pointer: written last, switched in one rename
    BUNDLE/<model_version>-<items_seq>/      encoders/  tables/  items/  and a stage's graphs:
                                            <stage>.query.onnx and <stage>.item.onnx, or <stage>.onnx; priors/

A reader sees the old content or the new, never half; the content before the newest stays for those still reading it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from corank.core.errors import BundleError, ConfigError
from corank.core.files import PARTIAL, atomic_file, atomic_folder
from corank.core.registry import plugin_hint
from corank.core.settings import Settings, validate
from corank.data.column_sources import Source
from corank.data.request_columns import RequestColumns
from corank.features.feature_kind import Feature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

FORMAT = 4
CHUNK = 1 << 22
VECTOR = "vector"
"""The item part that retrieval and the scorer `vectors` take."""


class Calibration(Settings):
    slope: float
    intercept: float


class Attention(Settings):
    """What a stage attends to."""

    history: str
    features: list[str]


class StageFacts(Settings):
    """What serving must know of a stage beside its graphs."""

    name: str
    model: str
    """The stage model that was trained, for people: serving goes by what follows."""
    scorer: str
    """The online scorer that runs the stage (`corank.serving.funnel.stage_scorer`)."""
    cuts: list[str] = []
    """The levels of the log whose candidates it cuts."""
    keep: int
    min_score: float | None = None
    deadline_ms: float | None = None
    labels: list[str]
    value: str
    calibrators: dict[str, Calibration]
    tables: str
    """The folder of the tables that it reads."""
    item_parts: dict[str, int] = {}
    """What is computed of an item ahead of requests, by the graph `STAGE.item.onnx`: name → width."""
    constants: dict[str, float] = {}
    """Numbers that the scorer needs: `scale` and `bias` of vectors, logit = scale · ⟨q, v⟩ + bias."""
    main: str
    """The label by which later stages see it."""
    attended: Attention | None = None
    from_stages: list[tuple[str, Literal["score", "rank"]]] = []
    """What it sees of earlier stages: the logit, or the soft rank in the request."""

    @model_validator(mode="before")
    @classmethod
    def _read_first_version(cls, value: Any) -> Any:
        """Bring facts of the first version, whose scorer followed from the model, into today's form."""
        if not isinstance(value, dict) or "scorer" in value:
            return value
        facts = dict(value)
        width, scale, bias = (facts.pop(key, None) for key in ("width", "scale", "bias"))
        facts["scorer"] = "graph" if width is None else "vectors"
        if width is not None:
            facts |= {"item_parts": {VECTOR: width}, "constants": {"scale": scale, "bias": bias}}
        seen = facts.get("from_stages", [])
        return facts | {"from_stages": [(s, "rank" if what == "place" else what) for s, what in seen]}

    @property
    def vector_width(self) -> int | None:
        """The width of its item vectors, None if it has none."""
        return self.item_parts.get(VECTOR)


class Part(Settings):
    bytes: int
    sha256: str


class BundleManifest(Settings):
    format: int
    name: str
    model_version: str
    """Hash of weights, encoders, calibrators and schema: two bundles that share it score alike."""
    items_seq: int
    """Counts changes of the items under one model version."""
    content: str
    data: DataSettings
    """What the columns of the log are called, by which a newer one is read."""
    features: dict[str, Feature]
    stages: list[StageFacts]
    sources: dict[str, Source]
    """The table that each feature of a column was read from."""
    priors: dict[str, int]
    """By prior, the time that its snapshot is of, ms UTC."""
    items_at: int
    """When the table of items was last changed, ms UTC: what came to be known later is not in the records."""
    item_columns: list[str]
    """Those of the data's `columns` that are of the items; the others come with a request."""
    plugins: list[str] = []
    """The plug-ins of the config, named in errors about parts that are not known here. They are never imported."""
    parts: dict[str, Part]
    digest: str = ""
    """Of the manifest itself."""

    @property
    def declared(self) -> Schema:
        return Schema(self.features)

    @property
    def request_columns(self) -> RequestColumns:
        """The columns that a request to this bundle carries."""
        return RequestColumns.of(self.declared, self.data, self.item_columns)

    @property
    def vector_tables(self) -> dict[str, str]:
        """The stages that have item vectors, and the set of tables that each reads."""
        return {stage.name: stage.tables for stage in self.stages if stage.vector_width is not None}

    @property
    def user(self) -> str:
        """The column of the user's id; requests call it `id`."""
        return self.data.user

    @property
    def item(self) -> str:
        return self.data.item

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return plain


@dataclass(frozen=True)
class Bundle:
    folder: Path
    """The content that the manifest names."""
    manifest: BundleManifest

    @classmethod
    def open(cls, path: Path, proven: bool = False) -> Self:
        """Read the manifest and prove every part, unless that was done just now.

        Raises BundleError if one is absent, cut short or altered.
        """
        manifest = _manifest(path)
        folder = path / manifest.content
        for name, part in () if proven else manifest.parts.items():
            _prove(folder / name, part, manifest.model_version)
        return cls(folder, manifest)


def _manifest(path: Path) -> BundleManifest:
    file = path / "manifest.json"
    try:
        held = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{path}: not a bundle (it has no manifest.json); `corank export` makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: cannot be read ({error}); export the bundle again") from None
    if isinstance(held, dict) and held.get("format", FORMAT) != FORMAT:
        raise BundleError(f"{file}: format {held['format']}; this corank reads format {FORMAT}")
    manifest = read_manifest(held, str(file), "export the bundle again")
    if manifest.digest != _digest(held):
        raise BundleError(f"{file}: altered since it was written; export the bundle again")
    return manifest


def read_manifest(plain: Any, source: str, remedy: str) -> BundleManifest:
    """A manifest from its JSON value.

    Raises BundleError, which names the plug-ins that the bundle needs and that are not loaded, or else the remedy.
    """
    try:
        return validate(BundleManifest, plain, source)
    except ConfigError as error:
        hint = plugin_hint(plain.get("plugins")) if isinstance(plain, dict) else ""
        raise BundleError(f"{error}; {hint or remedy}") from None


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain | {"digest": ""}, sort_keys=True).encode()).hexdigest()


def _prove(path: Path, part: Part, model_version: str) -> None:
    try:
        size = path.stat().st_size
        if size == part.bytes and sha256(path) == part.sha256:
            return
    except OSError as error:
        raise BundleError(f"{path}: missing from the bundle ({error.strerror}); export it again") from None
    found = f"{size} bytes in place of {part.bytes}" if size != part.bytes else "its checksum differs"
    raise BundleError(
        f"{path}: damaged, or a part of another model version than {model_version} ({found}); export the bundle again"
    )


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write(path: Path, manifest: BundleManifest, fill: Callable[[Path], None]) -> Bundle:
    """Write a bundle whole or not at all: `fill` puts the parts into a new folder, then the manifest switches.

    `content`, `parts` and `digest` of the manifest are filled in here. Raises BundleError if the disk refuses or the
    path holds something else.
    """
    _refuse_foreign(path)
    # a name of its own each time, so that no reader's content is ever replaced under it
    content = f"{manifest.model_version}-{manifest.items_seq}-{os.urandom(4).hex()}"
    try:
        with atomic_folder(path / content) as partial:
            fill(partial)
            files = sorted(p for p in partial.rglob("*") if p.is_file())
            parts = {
                str(p.relative_to(partial)): Part(bytes=p.stat().st_size, sha256=sha256(p)) for p in files
            }
        return _publish(path, manifest.model_copy(update={"content": content, "parts": parts}))
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error}; what was there before is untouched") from None


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path}: exists and is no folder; name another")
    if path.is_dir() and current(path) is None:
        # a damaged bundle may be replaced; packed data, for one, have a manifest.json of their own
        ours = {p.name for p in path.iterdir() if _is_ours(p)}
        foreign = {p.name for p in path.iterdir()} - ours - ({"manifest.json"} if ours else set())
        if foreign:
            raise BundleError(
                f"{path}: holds other files ({min(foreign)}) and is no bundle; name another folder"
            )


def _is_ours(path: Path) -> bool:
    """Whether it is a content folder, or what an interrupted export left."""
    return path.name.startswith((PARTIAL, ".manifest-")) or (path / "encoders" / "encoders.json").is_file()


def _publish(path: Path, manifest: BundleManifest) -> Bundle:
    """Switch a bundle to a content folder, and remove the contents before the last one."""
    before, plain = current(path), manifest.plain()
    plain["digest"] = _digest(plain)
    try:
        with atomic_file(path / "manifest.json") as pointer:
            pointer.write_text(json.dumps(plain, indent=1), encoding="utf-8")
    except OSError:
        shutil.rmtree(path / manifest.content, ignore_errors=True)
        raise
    for old in path.iterdir():
        if old.name not in (manifest.content, before) and _is_ours(old):
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    return Bundle(path / manifest.content, BundleManifest.model_validate(plain))


def current(path: Path) -> str | None:
    try:
        return _manifest(path).content
    except (BundleError, ValidationError):
        return None


def next_seq(path: Path, model_version: str) -> int:
    """1 for a new model version, one more than before for one that the bundle already holds."""
    try:
        held = _manifest(path)
    except BundleError:
        return 1
    return held.items_seq + 1 if held.model_version == model_version else 1
