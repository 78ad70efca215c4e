"""Attention over a history: an event counts by how much it has to do with the candidate.

Letters: I' distinct items · H' distinct items of histories, both rounded up · L events of one request · C candidates
· w width of an item's attended features · v width of an event's, w at least.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from corank.models.histories.attended import AttendedHistory
from corank.models.histories.sequence_encoder import SequenceEncoder
from corank.models.inputs.named_axes import AxisNames, name_axes
from corank.models.layers import ACTIVATIONS, Columns, linear
from corank.models.settings.din import DinSettings


class Din(nn.Module):
    """Σ_e a(e, t) e over the events e of the request, with a(e, t) = u · f(W_t t + W_e e + W_p (t ∘ e) + b) + c.

    t and e are the embeddings of the candidate's item and of an event's, by the same features; a is not normalised.
    What only events have, such as the dwell, is appended to e, and left out of t ∘ e.
    Source: Deep Interest Network, Zhou et al., KDD 2018 (arXiv 1706.06978), whose t − e is within W_t and W_e.
    """

    def __init__(
        self,
        settings: DinSettings,
        items: AxisNames,
        activation: str,
        of_events: AxisNames = (),
        encoder: SequenceEncoder | None = None,
    ) -> None:
        """
        Args:
            settings: of the attention.
            items: the names of an item's attended columns: (w,).
            activation: of the hidden layer.
            of_events: the names of the columns that only events have: (v − w,).
            encoder: of the events, if they are encoded.
        """
        super().__init__()
        self.activation = activation
        events = (*items, *of_events)
        self.target = name_axes(nn.Linear(len(items), settings.hidden), weight=(None, items))
        self.event = name_axes(nn.Linear(len(events), settings.hidden, bias=False), weight=(None, events))
        self.product = name_axes(nn.Linear(len(items), settings.hidden, bias=False), weight=(None, items))
        self.weight = nn.Linear(settings.hidden, 1)
        self.encoder = encoder

    def forward(self, target: Tensor, history: AttendedHistory, order: Columns | None = None) -> Tensor:
        """Attend from each candidate: targets (I', w) and events (H', v), or (L, v) of one request → (C, v).

        `order` brings the columns of events in order: those that items have, too, then their own.
        """
        event = history.items if order is None else order(history.items)
        if self.encoder is not None:
            history = history.encode(event, self.encoder)
            event = history.items
        return history.attend(
            (linear(target, self.target), target), (linear(event, self.event), event), self._weigh
        )

    def _weigh(self, target: Sequence[Tensor], event: Sequence[Tensor]) -> Tensor:
        """a(e, t), from (W_t t + b, t) and (W_e e, e)."""
        first, product = target[0] + event[0], target[1] * event[1][..., : target[1].shape[-1]]
        hidden = ACTIVATIONS[self.activation](first + linear(product, self.product))
        return linear(hidden, self.weight).squeeze(-1)
