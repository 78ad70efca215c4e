"""The manifest of a bundle: what serving must know, and size and checksum of every part."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from corank.bundle.signatures import Signatures, TrustedKeys, read_signatures
from corank.core.errors import BundleError, ConfigError
from corank.core.registry import plugin_hint
from corank.core.settings import Settings, validate
from corank.data.column_sources import Source
from corank.data.request_columns import RequestColumns
from corank.features.feature_kind import Feature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

FORMAT = 5
"""The format that is written."""
READABLE = (4, FORMAT)
"""Format 4 names no scorers and no plug-ins: the scorer follows from the stage model."""
VECTOR = "vector"
"""The item part that retrieval and the scorer `vectors` take."""


class Calibration(Settings):
    """A calibrator: probability = σ(slope · logit + intercept)."""

    slope: float
    intercept: float


class Attention(Settings):
    """The history that a stage attends to, and the features of its items."""

    history: str
    features: list[str]


class StageFacts(Settings):
    """What serving must know of a stage, besides its graphs."""

    name: str
    model: str
    """The stage model that was trained, for people: serving goes by what follows."""
    scorer: str
    """The online scorer that runs the stage (`corank.serving.funnel.stage_scorer`)."""
    cuts: list[str] = []
    """The levels of the log whose candidates the stage cuts."""
    keep: int
    min_score: float | None = None
    deadline_ms: float | None = None
    labels: list[str]
    value: str
    calibrators: dict[str, Calibration]
    tables: str
    """The set of embedding tables that it reads."""
    item_parts: dict[str, int] = {}
    """What is computed of an item ahead of requests, by the graph `STAGE.item.onnx`: name → width."""
    constants: dict[str, float] = {}
    """Numbers that the scorer needs: `scale` and `bias` of vectors, logit = scale · ⟨q, v⟩ + bias."""
    main: str
    """The label by which later stages see it."""
    attended: Attention | None = None
    from_stages: list[tuple[str, Literal["score", "rank"]]] = []
    """Inputs from earlier stages: the logit, or the soft rank in the request."""

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
    """Size and checksum of a file."""

    bytes: int
    sha256: str


class BundleManifest(Settings):
    """All that a reader must know of a bundle's content."""

    format: int
    name: str
    model_version: str
    """Hash of weights, encoders, calibrators and schema: two bundles that share it score alike."""
    items_seq: int
    """Counts changes of the items of one model version."""
    content: str
    """The name of the content folder."""
    data: DataSettings
    """The settings of the log, by which newer logs are read."""
    features: dict[str, Feature]
    stages: list[StageFacts]
    sources: dict[str, Source]
    """The table that each feature of a column was read from."""
    priors: dict[str, int]
    """Prior → the time of its snapshot, ms UTC."""
    items_at: int
    """When the table of items was last changed, ms UTC: later changes are not in the records."""
    item_columns: list[str]
    """Those of the data's `columns` that are of the items; the others come with a request."""
    user_ids: Literal["text", "whole numbers"] | None = None
    """What ids of users are; None in bundles of before it was noted."""
    plugins: list[str] = []
    """The plug-ins of the config, named in errors about parts that are not known here. They are never imported."""
    parts: dict[str, Part]
    digest: str = ""
    """Of the manifest itself, with this field empty and without signatures."""
    signatures: Signatures = []
    """Of what the digest is of."""

    @model_validator(mode="before")
    @classmethod
    def _read_older_format(cls, value: Any) -> Any:
        """Note today's format: the parts of an older manifest are brought into it as they are read."""
        if isinstance(value, dict) and value.get("format") in READABLE:
            return value | {"format": FORMAT}
        return value

    @property
    def declared(self) -> Schema:
        """The features."""
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
        """The column of the item's id."""
        return self.data.item

    @property
    def signed_content(self) -> bytes:
        """What its signatures are of."""
        return signed_content(self.plain())

    def plain(self) -> dict[str, Any]:
        """Return the manifest as a JSON value."""
        plain: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return plain


def load_manifest(path: Path, trust: TrustedKeys | None = None) -> BundleManifest:
    """Read the manifest of a bundle's folder.

    Args:
        path: the folder.
        trust: keys, one of which must have signed it; None if it need not be signed.

    Raises BundleError if it is absent, damaged or of another format; TrustError.
    """
    file = path / "manifest.json"
    try:
        held = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{path}: not a bundle (it has no manifest.json); `corank export` makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: cannot be read ({error}); export the bundle again") from None
    if isinstance(held, dict) and held.get("format", FORMAT) not in READABLE:
        raise BundleError(f"{file}: {refuse_format(held['format'])}")
    if trust is not None:
        verify_manifest(held, trust, str(path))
    manifest = read_manifest(held, str(file), "export the bundle again")
    if manifest.digest != digest(held):
        raise BundleError(f"{file}: altered since it was written; export the bundle again")
    return manifest


def refuse_format(found: object) -> str:
    """The message about a format that cannot be read."""
    known = " and ".join(map(str, READABLE))
    return f"format {found}; this corank reads formats {known}; export the bundle again"


def read_manifest(plain: Any, source: str, remedy: str) -> BundleManifest:
    """Read a manifest from its JSON value.

    Raises BundleError, which names the plug-ins that the bundle needs and that are not loaded, or else the remedy.
    """
    try:
        return validate(BundleManifest, plain, source)
    except ConfigError as error:
        hint = plugin_hint(plain.get("plugins")) if isinstance(plain, dict) else ""
        raise BundleError(f"{error}; {hint or remedy}") from None


def verify_manifest(plain: Any, trust: TrustedKeys, source: str) -> None:
    """Check that a trusted key signed a manifest, given as its JSON value. Raises TrustError."""
    held = plain if isinstance(plain, dict) else {}
    signatures = read_signatures(held.get("signatures", []), source)
    trust.verify(signed_content(held), signatures, f"{source}: {held.get('content')}")


def digest(plain: dict[str, Any]) -> str:
    """Hash a manifest's JSON value, its own digest and its signatures left out."""
    return hashlib.sha256(_canonical(plain)).hexdigest()


def signed_content(plain: dict[str, Any]) -> bytes:
    """Return the bytes of a manifest's JSON value that are signed."""
    return b"corank manifest\n" + _canonical(plain)


def _canonical(plain: dict[str, Any]) -> bytes:
    """One form of a manifest's JSON value, its own digest and its signatures left out."""
    held = {key: value for key, value in plain.items() if key != "signatures"}
    return json.dumps(held | {"digest": ""}, sort_keys=True).encode()
