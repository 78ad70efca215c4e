"""The facts of a stage in a bundle's manifest: what serving must know of it, besides its graphs.

What a lower precision of stored parts changes, as an export measured it on logged requests.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, NamedTuple, Self

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AllowInfNan, Field, PositiveInt, model_validator

from corank.core.artifact import FolderName
from corank.core.errors import ConfigError
from corank.core.ordering import Formula
from corank.core.settings import Settings
from corank.core.stored_matrix import Precision, bytes_a_row

VECTOR = "vector"
"""The item part that retrieval and the scorer `vectors` take."""
PartName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
FiniteFloat = Annotated[float, AllowInfNan(False)]


class Calibration(Settings):
    """A calibrator: probability = σ(slope · logit + intercept)."""

    slope: Annotated[FiniteFloat, Gt(0)]
    intercept: FiniteFloat


class Attention(Settings):
    """The history that a stage attends to, and the features of its items and of its events."""

    history: str
    features: list[str]
    ages: bool = False
    """Whether the stage's graph reads how old events are at the request."""


class ItemPart(NamedTuple):
    """What a stage keeps of every item."""

    name: str
    """`STAGE.PART`."""
    width: int
    precision: Precision


class StageFacts(Settings):
    """What serving must know of a stage, besides its graphs."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    model: str
    """The stage model that was trained, for people: serving goes by what follows."""
    scorer: str
    """The online scorer that runs the stage (`corank.funnel.stage_scorer`)."""
    cuts: list[str] = []
    """The levels of the log whose candidates the stage cuts."""
    keep: PositiveInt
    min_score: FiniteFloat | None = None
    deadline_ms: Annotated[FiniteFloat, Gt(0)] | None = None
    labels: Annotated[list[str], MinLen(1)]
    value: str
    calibrators: dict[str, Calibration]
    tables: FolderName
    """The set of embedding tables that it reads."""
    item_parts: dict[PartName, PositiveInt] = {}
    """What is computed of an item ahead of requests, by the graph `STAGE.item.onnx`, in the order of its outputs:
    name → width."""
    precision: dict[str, Precision] = {}
    """By item part, how its numbers are stored (`corank.core.stored_matrix`); fp32 unless it is there."""
    constants: dict[str, FiniteFloat] = {}
    """Numbers that the scorer needs: `scale` and `bias` if logit = scale · ⟨q, v⟩ + bias; others have other names."""
    matches: list[str] = []
    """Features of query and item that the scorer counts for each candidate, and adds to its logit."""
    main: str
    """The label by which later stages see it."""
    attended: Attention | None = None
    from_stages: list[tuple[str, Literal["score", "rank"]]] = []
    """Inputs from earlier stages: the logit, or the soft rank in the request."""

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: one is there twice; received {', '.join(self.labels)}")
        if self.main not in self.labels:
            raise ValueError(f"main: '{self.main}' is none of the labels {', '.join(self.labels)}")
        if set(self.calibrators) != set(self.labels):
            raise ValueError(f"calibrators: expected one for each of {', '.join(self.labels)}")
        if odd := set(self.precision) - set(self.item_parts):
            raise ValueError(f"precision: '{min(odd)}' is none of the item parts")
        return self

    def ordering(self, columns: Collection[str]) -> Formula:
        """Its value, parsed, over its labels and the data's `columns`. Raises ValueError for other names."""
        return Formula.parse(self.value, [*self.labels, *columns])

    @property
    def parts(self) -> list[ItemPart]:
        """Its item parts, in the order of the graph's outputs."""
        return [
            ItemPart(f"{self.name}.{part}", width, self.precision.get(part, "fp32"))
            for part, width in self.item_parts.items()
        ]

    @property
    def vector_part(self) -> str | None:
        """The name of its item vectors, `STAGE.vector`, None if it has none."""
        return f"{self.name}.{VECTOR}" if VECTOR in self.item_parts else None

    @property
    def vector_width(self) -> int | None:
        """The width of its item vectors, None if it has none."""
        return self.item_parts.get(VECTOR)

    @property
    def orders_by_product(self) -> bool:
        """Whether the product of a query's vector and an item's orders candidates, so that an index may find them."""
        product = self.vector_width is not None and {"scale", "bias"} <= set(self.constants)
        return product and not self.matches


TOLERANCE = 1e-5
"""Largest difference between an offline score and the served one in fp32, relative to it if it is above 1."""
MARGIN = 2
"""The tolerance of a lower precision is this many times what an export measured: other requests may differ more."""

Share = Annotated[float, Ge(0), Le(1)]
Difference = Annotated[float, Ge(0), AllowInfNan(False)]


class StageLoss(Settings):
    """What changes at one stage, between parts as they are stored and parts in fp32."""

    recall: Share
    """Of the candidates that the stage keeps in fp32, the share that it keeps as stored: the mean over requests. It
    keeps its quota, or half of its candidates where there are fewer than twice as many."""
    max_probability: Share
    """The largest change of a calibrated probability, over all labels and candidates."""
    mean_probability: Share
    """The mean change."""
    max_score: Difference
    """The largest change of a score, relative to it if it is above 1."""

    @property
    def tolerance(self) -> float:
        """Largest difference between an offline score in fp32 and the served one, relative to it if it is above 1."""
        return TOLERANCE + MARGIN * self.max_score


class PrecisionLoss(Settings):
    """What an export measured, and the bounds that it kept."""

    requests: PositiveInt
    """Logged requests that it was measured on."""
    candidates: PositiveInt
    """Their candidates."""
    max_recall_loss: Share
    """The bound of 1 − recall of each stage."""
    max_probability_loss: Share
    """The bound of each stage's largest change of a probability."""
    stages: dict[str, StageLoss]

    def require(self, lowered: Mapping[str, Precision]) -> None:
        """Raise ConfigError if a stage is beyond a bound. `lowered` are the precisions by `STAGE.PART`."""
        stored = ", ".join(f"{name} in {precision}" for name, precision in lowered.items())
        for name, loss in self.stages.items():
            kept = f"stage '{name}' keeps {loss.recall:.4f} of what it keeps in fp32"
            changed = f"a probability of stage '{name}' changes by {loss.max_probability:.2g}"
            for key, measured, what in (
                ("max_recall_loss", 1 - loss.recall, kept),
                ("max_probability_loss", loss.max_probability, changed),
            ):
                if measured > (bound := getattr(self, key)):
                    raise ConfigError(
                        f"export.precision: with {stored}, {what} on {self.requests} logged requests, and "
                        f"export.{key} is {bound:g}; store more precisely, or allow more; nothing was written"
                    )

    def lines(self, stages: list[StageFacts]) -> list[str]:
        """Describe it, a line for all parts and a line a stage."""
        parts = [part for stage in stages for part in stage.parts]
        sizes = [
            f"{name} {precision}, {bytes_a_row(width, precision)} bytes an item ({4 * width} in fp32)"
            for name, width, precision in parts
        ]
        lines = [f"precision: {'; '.join(sizes)}"]
        for stage in stages:
            loss = self.stages[stage.name]
            lines.append(
                f"precision of {stage.name}: recall@{stage.keep} {loss.recall:.4f}, change of a probability "
                f"{loss.max_probability:.2g} at most, {loss.mean_probability:.2g} on average; offline and online "
                f"scores agree to {loss.tolerance:.2g}; on {self.requests} logged requests"
            )
        return lines
