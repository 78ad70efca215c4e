"""The ranker: an MLP over every feature, its first layer split by side so that only the pair's part costs C.

Attention over a history, cross layers and what it sees of earlier stages gather full inputs, and cost accordingly.

Letters: R requests · I distinct items · C candidates · h first width · w width of an item's attended features
· W width of all dense inputs.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, cast

import torch
from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import pad

from corank.batches.batch import Batch
from corank.core.errors import ConfigError
from corank.features.input_layout import Attended, Layout
from corank.features.schema import PLACEMENTS, Placement, Schema
from corank.models.dcn import Dcn, DcnSettings
from corank.models.din import Din, DinSettings
from corank.models.layers import (
    ACTIVATIONS,
    Columns,
    NetworkSettings,
    StageSettings,
    Widths,
    activated,
    linear,
    pair_sum,
)
from corank.models.stage_context import StageContext
from corank.models.stage_io import StageOutput


class LayerSettings(NetworkSettings):
    hidden: Widths = [128, 128, 128]
    labels: Annotated[list[str], MinLen(1)] = ["click"]
    """A head each over the shared layers."""
    din: DinSettings | None = None
    """Attention over a history."""
    dcn: DcnSettings | None = None
    """Cross layers beside the deep ones."""

    def predicts(self) -> list[str]:
        """Its labels."""
        return self.labels

    def input_features(self, schema: Schema) -> dict[str, list[str]]:
        """Every feature enters it."""
        return {self.name: list(schema.features)}

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config."""
        super().check(context)
        self.attended(context.schema, context.key.partition(".")[0])

    def attended(self, schema: Schema, key: str = "stages") -> Attended | None:
        """What its attention reads. Raises ConfigError, which begins with the key, where that is not in the schema."""
        if self.din is None:
            return None
        key, history = f"{key}.{self.name}.din", schema.histories().get(self.din.history)
        if history is None:
            raise ConfigError(
                f"{key}.history: no history '{self.din.history}'; "
                f"histories are {', '.join(schema.histories()) or 'not declared'}"
            )
        for name in self.din.attributes:
            if name not in schema.columns("item") or name not in schema.embedded():
                raise ConfigError(f"{key}.attributes: '{name}' is no item feature of kind id, ids or bucket")
        return Attended(self.din.history, (str(history.of), *self.din.attributes))


Earlier = Literal["score", "place"]


class MlpSettings(LayerSettings, StageSettings):
    model: Literal["mlp"]
    value: str = "click"
    from_stages: list[str] = []
    """What it sees of earlier stages, as `STAGE.score` (the logit) or `STAGE.place` (in the request)."""

    def sees(self) -> list[tuple[str, Earlier]]:
        """`from_stages`, told apart. Raises ConfigError where one is neither a score nor a place."""
        found: list[tuple[str, Earlier]] = []
        for text in self.from_stages:
            stage, _, what = text.rpartition(".")
            if not stage or what not in ("score", "place"):
                raise ConfigError(
                    f"stages.{self.name}.from_stages: expected STAGE.score or STAGE.place; received {text!r}"
                )
            found.append((stage, "score" if what == "score" else "place"))
        return found

    def check(self, context: StageContext) -> None:
        """Raise ConfigError if it contradicts the rest of the config, such as an earlier stage that does not exist."""
        super().check(context)
        key = f"{context.key}.from_stages"
        for name, what in self.sees():
            if name not in context.before:
                raise ConfigError(
                    f"{key}: '{name}' is no stage before '{self.name}'; "
                    f"there are {', '.join(context.before) or 'none'}"
                )
            if what == "place" and name != (first := next(iter(context.before))):
                raise ConfigError(
                    f"{key}: '{name}' places only what '{first}' keeps, yet all candidates in training: "
                    f"its place would mean two things; write {name}.score"
                )
            if context.last_first:
                raise ConfigError(
                    f"{key}: '{name}' trains after '{self.name}' in train.mode: separate, where the last stage is "
                    "first; write joint or alternate"
                )


class Mlp(nn.Module):
    def __init__(self, settings: LayerSettings, layout: Layout) -> None:
        super().__init__()
        self.labels, self.activation, self.dropout = settings.labels, settings.activation, settings.dropout
        self.widths = [layout.width(p) for p in PLACEMENTS]
        widths = settings.hidden
        self.first = nn.Linear(sum(self.widths), widths[0])
        self.norm = nn.LayerNorm(widths[0]) if settings.normalisation == "layer" else None
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dcn = Dcn(settings.dcn, sum(self.widths)) if settings.dcn else None
        self.heads = nn.Linear(widths[-1] + (sum(self.widths) if settings.dcn else 0), len(settings.labels))
        self.din: Din | None = None
        self.attended = settings.attended(layout.schema)
        if settings.din and self.attended:
            target = layout.columns("item", self.attended.features)
            self.target = Columns(target.tolist())
            self.din = Din(settings.din, len(target), settings.activation)
            self.interest = nn.Linear(len(target), widths[0], bias=False)
        earlier = len(settings.from_stages) if isinstance(settings, MlpSettings) else 0
        self.earlier = nn.Linear(earlier, widths[0], bias=False) if earlier else None

    def forward(
        self, inputs: dict[Placement | Attended, Tensor], batch: Batch, earlier: Tensor | None = None
    ) -> StageOutput:
        """The logits of a batch's candidates, from dense inputs and what it sees of earlier stages, (C, ·)."""
        pairs = self.pairs(inputs, batch)
        for seen, layer in ((self._interest(inputs, batch), "interest"), (earlier, "earlier")):
            if seen is not None:
                seen = pad(seen, (0, 0, 0, len(pairs) - len(seen))).to(pairs.dtype)
                pairs = pairs + linear(seen, cast(nn.Linear, getattr(self, layer)))
        crossed = None if self.dcn is None else self.dcn(inputs, batch)
        logits = self.above(pair_sum(*self.sides(inputs), batch) + pairs, crossed)
        return StageOutput({label: z[: len(batch)] for label, z in logits.items()})

    def _interest(self, inputs: dict[Placement | Attended, Tensor], batch: Batch) -> Tensor | None:
        """What of the history has to do with each candidate: (C, w)."""
        if self.din is None or self.attended is None:
            return None
        found: Tensor = self.din(
            self.target(inputs["item"]), inputs[self.attended], batch, batch.histories[self.attended]
        )
        return found

    def sides(self, inputs: dict[Placement | Attended, Tensor]) -> tuple[Tensor, Tensor]:
        """The first layer's sums over the query, bias included, and over the item: (R, h), (I, h)."""
        query, item, _ = self._split(inputs["query"])
        bias = self.first.bias.to(query.dtype)
        return functional.linear(inputs["query"], query, bias), functional.linear(inputs["item"], item)

    def pairs(self, inputs: dict[Placement | Attended, Tensor], batch: Batch) -> Tensor:
        """The first layer's sum over what belongs to the pair: (padded C, h)."""
        return functional.linear(inputs["cross"], self._split(inputs["cross"])[2])

    def _split(self, like: Tensor) -> tuple[Tensor, ...]:
        return torch.split(self.first.weight.to(like.dtype), self.widths, dim=1)

    def above(self, first: Tensor, crossed: Tensor | None = None) -> dict[str, Tensor]:
        """Logits from the first layer's sums (C, h), and what cross layers found (C, W): {label: (C,)}."""
        if self.norm is not None:
            first = self.norm(first.float()).to(first.dtype)
        x = functional.dropout(ACTIVATIONS[self.activation](first), self.dropout, self.training)
        for layer in cast(Sequence[nn.Linear], self.hidden):
            x = functional.dropout(activated(x, layer, self.activation), self.dropout, self.training)
        logits = linear(x if crossed is None else torch.cat((x, crossed), 1), self.heads).float()
        return dict(zip(self.labels, logits.unbind(1), strict=True))
