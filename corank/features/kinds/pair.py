"""`kind: pair`: two values as one, embedded."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from corank.core.types import Doubles, Hashes
from corank.features.encoding import Column, Encoder, Hash, Vocabulary, mix_hashes
from corank.features.feature_kind import FEATURE_KINDS, Storage, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import CrossFeature
from corank.features.training_values import TrainingValues, VocabularySettings, fit_codes


@FEATURE_KINDS.register("pair")
class PairFeature(VocabularySettings, CrossFeature):
    """Two values as one, embedded: a vocabulary of the training rows' pairs, or a hash. Missing if either is."""

    kind: Literal["pair"] = "pair"
    dim: PositiveInt = 16
    """Width of the embedding."""

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Vocabulary, Hash)
    unpacked_settings: ClassVar[frozenset[str]] = frozenset({"dim"})
    operands_text: ClassVar[str] = "features of kind id or bucket"
    storage: ClassVar[Storage] = "id"
    operand_uses: ClassVar[Sequence[Collection[Use]]] = [{"key"}, {"key"}]

    @property
    def width(self) -> int:
        """The dimension of the embedding."""
        return self.dim

    def derive(self, operands: OperandRows, when: PointInTime) -> Hashes:
        """Hashes of the pairs: (N,)."""
        return mix_hashes([operands.key(operand) for operand in self.of])

    def fit(self, values: TrainingValues) -> Encoder:
        """Learn a vocabulary of the pairs' hashes, unless they are hashed into `hash` rows."""
        if self.hash is not None:
            return Hash(self.hash, text=False)
        return fit_codes(values, self, None)

    def encode(self, encoder: Encoder | None, values: Hashes | Doubles) -> Column:
        """Codes (N,)."""
        assert isinstance(encoder, Vocabulary | Hash)
        return encoder.codes_of(values.view(np.uint64))
