"""The manifest of a bundle: what serving must know, besides size and checksum of every file.

A manifest may come from anybody who can write to a store: its files may have the names that are written, and no others.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field, model_validator

from corank.bundle.signatures import Signatures, TrustedKeys, read_signatures
from corank.bundle.stage_facts import PrecisionLoss, StageFacts
from corank.core.artifact import File, FolderName, Inspect, Manifest, canonical
from corank.core.artifact_cache import read_facts
from corank.core.errors import BundleError, ConfigError, CorankError, DataError
from corank.core.files import is_relative_name
from corank.core.objects import Location
from corank.core.page import PageSettings
from corank.core.registry import plugin_hint
from corank.core.settings import Settings, build_once
from corank.core.time import EARLIEST, LATEST, format_time
from corank.core.vector_search import RetrievalSettings
from corank.data.request_columns import RequestColumns, Source
from corank.features.feature_kind import Feature
from corank.features.history_events import timed_histories
from corank.features.log_schema import DataSettings
from corank.features.page_columns import check_page
from corank.features.schema import Schema

MOST_PARTS = 10_000
"""Parts of a bundle, at most."""

_COUNTS = r"(each|all)\.(offsets|periods|shown|positive)"
_LIST = r"list\d+\.(start|length|values)"
_VECTOR = r"vector\d+\.(row|values)"
_PART = re.compile(
    "|".join(
        (
            r"layout\.json",
            r"encoders/[^/]+",
            r"tables/[^/]+/(projection)?\d+\.npy",
            r"[^/]+\.onnx",
            rf"priors/\d+/(keys|values|smoothing|{_COUNTS})\.npy",
            r"items/keys(\.offsets|\.text)?\.npy",
            rf"items/(ids|numbers|{_LIST}|{_VECTOR}|column\.[^/]+|part\.[^/]+)\.npy",
            rf"items/operands/(key\d+|number\d+|{_LIST})\.npy",
        )
    ),
    re.ASCII,
)


CHANGE = re.compile(r"(\d{1,15})(?:-([0-9a-f]{16}))?")


class ItemsAsOf(Settings):
    """What a table of items contains: all that happened up to a time, or up to a change of the store."""

    time: Annotated[int, Field(ge=EARLIEST, le=LATEST)] | None = None
    """ms UTC"""
    change: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Number of a change."""
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    """Id of that change, if it is given."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.time is None) == (self.change is None) or (self.id is not None and self.change is None):
            raise ValueError("expected a time, or a change with or without its id")
        return self

    @classmethod
    def parse(cls, text: str, data: DataSettings) -> Self:
        """Parse a change such as `42` or `42-9f3c2b1a00d4e5f6`, or a day or a time.

        Args:
            text: as given.
            data: has the time zone of days and of times without one.

        Raises DataError.
        """
        if match := CHANGE.fullmatch(text):
            return cls(change=int(match[1]), id=match[2])
        try:
            return cls(time=data.milliseconds(text))
        except DataError:
            raise DataError(
                f"--items-as-of {text!r}: expected a change of the store, such as 42 or 42-9f3c2b1a00d4e5f6, or a day "
                "or a time, such as 2026-04-30 or 2026-04-30T06:00"
            ) from None

    def __str__(self) -> str:
        if self.time is not None:
            return format_time(self.time)
        return f"change {self.change}" + (f"-{self.id}" if self.id else "")


_declared = build_once(Schema)


def _part_name(name: str) -> str:
    if _PART.fullmatch(name) is None or not is_relative_name(name):
        raise ValueError(f"no part of a bundle is called {name[:200]!r}")
    return name


PartName = Annotated[str, AfterValidator(_part_name)]
Milliseconds = Annotated[int, Ge(-(2**63)), Le(2**63 - 1)]
"""A time, ms UTC."""


class BundleManifest(Manifest):
    """All that a reader must know of a bundle's content."""

    error: ClassVar[type[CorankError]] = BundleError
    missing: ClassVar[str] = "not a bundle (it has no manifest.json); `corank export` makes one"
    remedy: ClassVar[str] = "export the bundle again"
    most_bytes: ClassVar[int] = 1 << 24

    kind: str = "bundle"
    format: int = 9
    files: dict[PartName, File] = Field({}, max_length=MOST_PARTS)
    name: str
    model_version: FolderName
    """Hash of weights, encoders, calibrators and schema: two bundles that share it score alike."""
    items_seq: Annotated[int, Ge(0), Le(2**62)]
    """Counts changes of the items of one model version."""
    items_id: str = Field(default="", exclude=True)
    """Distinguishes items of one `items_seq`: the tag of the content's name, or the id of a store's last change."""
    data: DataSettings
    """The settings of the log, by which newer logs are read."""
    features: dict[str, Feature]
    stages: list[StageFacts]
    page: PageSettings | None = Field(None, exclude_if=lambda page: page is None)
    """The stage after them that fills a page; None if the last of `stages` is the last."""
    retrieval: RetrievalSettings | None = Field(None, exclude_if=lambda settings: settings is None)
    """How candidates are found if a request brings none; None if each must bring them."""
    sources: dict[str, Source]
    """The table that each feature of a column was read from."""
    priors: dict[str, Milliseconds]
    """What changes by snapshot, priors and ages of items → the time of its snapshot, ms UTC."""
    items_as_of: ItemsAsOf | None = None
    """What the table of items contains; None if it was not given."""
    item_columns: list[str]
    """Those of the data's `columns` that are of the items; the others come with a request."""
    user_ids: Literal["text", "whole numbers"] | None = None
    """What ids of users are; None for dates and times."""
    precision_loss: PrecisionLoss | None = None
    """What storing parts in less than fp32 changes; None if all are in fp32, or it was not measured."""
    plugins: list[str] = []
    """The plug-ins of the config, named in errors about parts that are not known here. They are never imported."""
    signatures: Signatures = []
    """Of what the digest is of."""

    @model_validator(mode="before")
    @classmethod
    def _derive_items_id(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("content"), str):
            return {"items_id": value["content"].rpartition("-")[2]} | value
        return value

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        """Refuse facts that contradict each other. Raises ConfigError, ValueError."""
        schema = self.declared
        schema.check_data(self.data)
        if set(self.priors) != set(schema.snapshots()):
            raise ValueError(f"priors: expected a time for each of {', '.join(schema.snapshots()) or 'none'}")
        if absent := set(schema.columns()) - set(self.sources):
            raise ValueError(f"sources: no table for feature '{min(absent)}'")
        if odd := set(self.item_columns) - set(self.data.columns):
            raise ValueError(f"item_columns: '{min(odd)}' is none of data.columns")
        if self.precision_loss and set(self.precision_loss.stages) != {stage.name for stage in self.stages}:
            raise ValueError("precision_loss.stages: expected each stage")
        for n, stage in enumerate(self.stages):
            try:
                self._check_stage(schema, stage, {earlier.name for earlier in self.stages[:n]})
            except ValueError as error:
                raise ValueError(f"stages.{n}.{error}") from None
        if self.page is not None:
            self._check_page(schema, self.page)
        if self.retrieval is not None:
            try:
                self.retrieval.check(self.product_stages)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    def _check_page(self, schema: Schema, page: PageSettings) -> None:
        """Raise ValueError if the page does not fit the features and the stages."""
        parts = [part.name for stage in self.stages for part in stage.parts]
        try:
            check_page(page, schema, parts, {stage.name: stage.keep for stage in self.stages})
        except ConfigError as error:
            raise ValueError(f"page.{error}") from None
        kept = {*schema.on_page(), *schema.record_features.vectors}
        if unread := [name for name in page.features if name not in kept]:
            raise ValueError(f"page: of '{unread[0]}' items have nothing that it could read")

    def _check_stage(self, schema: Schema, stage: StageFacts, earlier: set[str]) -> None:
        """Raise ValueError if a stage does not fit the features and the stages before it."""
        if stage.name in earlier:
            raise ValueError(f"name: two stages are called '{stage.name}'")
        if unknown := {name for name, _ in stage.from_stages} - earlier:
            raise ValueError(f"from_stages: '{min(unknown)}' is no earlier stage")
        if (attended := stage.attended) is not None:
            histories, placed = schema.histories(), schema.row_features("item")
            if attended.history not in histories:
                raise ValueError(f"attended.history: no history '{attended.history}'")
            if attended.ages and not histories[attended.history].timed:
                raise ValueError(f"attended.ages: the times of events of '{attended.history}' are not known")
            items = {*placed.ids, *placed.lists, *placed.vectors} & set(schema.inputs())
            if odd := set(attended.features) - items.union(schema.parallels_of(attended.history)):
                raise ValueError(
                    f"attended.features: '{min(odd)}' is no item feature of codes or vectors, and no attribute of "
                    f"the events of '{attended.history}'"
                )
        try:
            stage.ordering(self.data.columns)
        except ValueError as error:
            raise ValueError(f"value: {error}") from None

    @property
    def declared(self) -> Schema:
        """The features."""
        return _declared(self.features)

    @property
    def request_columns(self) -> RequestColumns:
        """The columns that a request to this bundle carries."""
        return RequestColumns.of(self.declared, self.data, self.item_columns)

    @property
    def attended(self) -> dict[str, bool]:
        """The histories that stages attend to, and whether some stage reads the ages of their events."""
        histories: dict[str, bool] = {}
        for attended in (stage.attended for stage in self.stages if stage.attended):
            histories[attended.history] = histories.get(attended.history, False) or attended.ages
        return histories

    @property
    def timed_histories(self) -> frozenset[str]:
        """The histories whose events a request gives with their times."""
        return timed_histories(self.declared, (name for name, aged in self.attended.items() if aged))

    @property
    def vector_stages(self) -> list[StageFacts]:
        """The stages that have item vectors."""
        return [stage for stage in self.stages if stage.vector_part is not None]

    @property
    def product_stages(self) -> list[str]:
        """The stages that order by a product of vectors."""
        return [stage.name for stage in self.stages if stage.orders_by_product]

    @property
    def user(self) -> str:
        """The column of the user's id; requests call it `id`."""
        return self.data.user

    @property
    def item(self) -> str:
        """The column of the item's id."""
        return self.data.item

    @classmethod
    def explain(cls, plain: Any) -> str:
        """As `Manifest.explain`; it may need plug-ins that are not loaded."""
        return (plugin_hint(plain.get("plugins")) if isinstance(plain, dict) else "") or cls.remedy


def load_manifest(location: Location) -> BundleManifest:
    """Read the manifest of a bundle, by its folder or its URL.

    Raises BundleError if it is absent, damaged or of another format; StorageError.
    """
    return read_facts(location, BundleManifest)


def require_signature(trust: TrustedKeys | None, source: str) -> Inspect | None:
    """Return what raises TrustError for the JSON value of a manifest that no trusted key signed; None without keys."""
    if trust is None:
        return None

    def verify(plain: Any) -> None:
        document = plain if isinstance(plain, dict) else {}
        signatures = read_signatures(document.get("signatures", []), source)
        trust.verify(signed_content(document), signatures, f"{source}: {document.get('content')}")

    return verify


def signed_content(plain: dict[str, Any]) -> bytes:
    """Return the bytes of a manifest's JSON value that are signed."""
    return b"corank manifest\n" + canonical(plain)
