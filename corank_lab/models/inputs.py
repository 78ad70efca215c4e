"""What a network reads of its inputs besides their values: embeddings of numbers, and gates of features.

Source of the embeddings: Gorishniy, Rubachev, Babenko, On Embeddings for Numerical Features in Tabular Deep Learning,
NeurIPS 2022 (arXiv 2203.05556).

Letters: N rows · F number columns of a placement · T bins · k frequencies · d width of an embedding · W columns of a
placement's input.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import assert_never

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.core.types import Doubles, Floats
from corank.features.encoding import Placement
from corank.features.input_layout import Layout
from corank.models.layers import Columns, linear
from corank.models.named_axes import AxisNames, join, name_axes, name_inputs, number
from corank_lab.models.mlp import Numbers, PeriodicNumbers, PiecewiseNumbers

NARROWEST = 0.01
"""Bins are at least so wide, in scaled units: a share magnifies the rounding of its number by the inverse."""


class NumberEmbedding(nn.Module, ABC):
    """What is read of the number columns of one placement: (N, width) → (N, F · d)."""

    def __init__(self, columns: Sequence[int], names: AxisNames, width: int) -> None:
        """
        Args:
            columns: those of the dense input that are numbers: (F,).
            names: of these columns: (F,).
            width: columns that each gives, d.
        """
        super().__init__()
        self.columns, self.names = Columns(list(columns)), names
        self.outputs = join([number(f"{name} embedded", width) for name in names])
        """The names of what it gives: (F · d,)."""

    def forward(self, x: Tensor) -> Tensor:
        """Embed each number by itself, in fp32: (N, width) → (N, F · d)."""
        return self.embed(self.columns(x).float()).flatten(1).to(x.dtype)

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """(N, F) → (N, F, d)."""


class _Layer(nn.Module):
    """relu(E_f p + b_f) by number f: (N, F, w) → (N, F, d)."""

    def __init__(self, names: AxisNames, width: int, dim: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(len(names), width, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(names), 1, dim).uniform_(-bound, bound))
        name_axes(self, weight=(names, None, None), bias=(names, None, None))

    def forward(self, p: Tensor) -> Tensor:
        return functional.relu(torch.baddbmm(self.bias, p.transpose(0, 1), self.weight)).transpose(0, 1)


class PiecewiseEmbedding(NumberEmbedding):
    """Shares of bins: p_t = clamp((x − b_t) / (b_{t+1} − b_t), 0, 1), t < T, with b the quantiles of training rows.

    Ones below the number's bin, its share of the bin, noughts above. The edges are learnt from data before training,
    belong to the weights, and stay when a training continues another.
    """

    low: Tensor
    slope: Tensor

    def __init__(self, settings: PiecewiseNumbers, columns: Sequence[int], names: AxisNames) -> None:
        super().__init__(columns, names, settings.dim or settings.bins)
        self.bins = settings.bins
        self.register_buffer("low", torch.zeros(len(names), settings.bins))  # b_t: (F, T)
        self.register_buffer(
            "slope", torch.zeros(len(names), settings.bins)
        )  # 1 / (b_{t+1} − b_t), 0: no such bin
        name_axes(self, low=(names, None), slope=(names, None))
        self.layer = None if settings.dim is None else _Layer(names, settings.bins, settings.dim)

    def fit(self, sample: Floats) -> None:
        """Learn the edges from scaled numbers of training rows: (S, columns of the dense input's numbers)."""
        for n, values in enumerate(sample.T):
            low, slope = fit_bins(values.astype(np.float64), self.bins)
            self.low[n], self.slope[n] = torch.from_numpy(low), torch.from_numpy(slope)

    def embed(self, x: Tensor) -> Tensor:
        """Shares, embedded if the settings say so."""
        shares = ((x.unsqueeze(2) - self.low) * self.slope).clamp(0, 1)
        return shares if self.layer is None else self.layer(shares)


def fit_bins(values: Doubles, bins: int) -> tuple[Doubles, Doubles]:
    """Cut a sample at its quantiles: the lower edge of each bin and 1 / width, 0 where no bin is left: (T,), (T,)."""
    low, slope = np.zeros(bins), np.zeros(bins)
    if not len(values):
        return low, slope
    edges = [float(values.min())]
    for edge in np.unique(np.quantile(values, np.linspace(0, 1, bins + 1))):
        if edge - edges[-1] >= NARROWEST:
            edges.append(float(edge))
    count = len(edges) - 1
    low[:count], slope[:count] = edges[:-1], 1 / np.diff(edges)
    return low, slope


class PeriodicEmbedding(NumberEmbedding):
    """relu(E_f [sin(2π c_f x), cos(2π c_f x)] + b_f), with k learnt frequencies c_f of each number f."""

    def __init__(self, settings: PeriodicNumbers, columns: Sequence[int], names: AxisNames) -> None:
        super().__init__(columns, names, settings.dim)
        self.frequency = nn.Parameter(
            torch.randn(len(names), settings.frequencies) * settings.sigma
        )  # (F, k)
        name_axes(self, frequency=(names, None))
        self.layer = _Layer(names, 2 * settings.frequencies, settings.dim)

    def embed(self, x: Tensor) -> Tensor:
        """Embed sines and cosines."""
        angle = 2 * math.pi * self.frequency * x.unsqueeze(2)
        embedded: Tensor = self.layer(torch.cat((angle.sin(), angle.cos()), 2))
        return embedded


def embed_numbers(settings: Numbers | None, layout: Layout, placement: Placement) -> NumberEmbedding | None:
    """Build the embedding of a placement's numbers; None if there are none, or they are read as they are."""
    names = list(layout.schema.row_features(placement).numbers_at)
    columns = layout.columns(placement, names).tolist()
    if settings is None or not columns:
        return None
    of_columns = name_inputs(layout, placement, columns)
    match settings:
        case PiecewiseNumbers():
            return PiecewiseEmbedding(settings, columns, of_columns)
        case PeriodicNumbers():
            return PeriodicEmbedding(settings, columns, of_columns)
        case _:
            assert_never(settings)


class FeatureGates(nn.Module):
    """x_f ← 2 σ(V relu(U x + a) + c)_f · x_f for the columns of each feature f; 1 before it has learnt.

    Each placement has gates of its own, so that a query's run once a request and an item's once an item.
    Source: the squeeze and excitation of FiBiNET, Huang, Zhang, Zhang, RecSys 2019 (arXiv 1905.09433), which excites
    by the mean of each embedding; the factor 2 σ is that of LHUC, Swietojanski and Renals, SLT 2014.
    """

    block_of: Tensor

    def __init__(self, inputs: AxisNames, features: Sequence[str], hidden: int) -> None:
        """
        Args:
            inputs: the names of the columns: (W,).
            features: whose each column is: (W,).
            hidden: width of the layer between inputs and gates.
        """
        super().__init__()
        blocks = tuple(dict.fromkeys(features))
        block_index = {name: n for n, name in enumerate(blocks)}
        self.register_buffer("block_of", torch.tensor([block_index[f] for f in features]), persistent=False)
        self.squeeze = name_axes(nn.Linear(len(inputs), hidden), weight=(None, inputs))
        self.excite = name_axes(nn.Linear(hidden, len(blocks)), weight=(blocks, None), bias=(blocks,))
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the features of each row: (N, W) → (N, W)."""
        gates = 2 * linear(functional.relu(linear(x, self.squeeze)), self.excite).sigmoid()
        return x * gates.index_select(1, self.block_of)
