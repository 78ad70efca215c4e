"""Which candidates the costly networks leave out in training, since an earlier stage finds them easy."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Lt
from pydantic import Field

from corank.core.settings import Settings

Share = Annotated[float, Gt(0), Lt(1)]


class SkipEasy(Settings):
    """Easy candidates that the networks after a stage do not score in training.

    Of the n candidates of a request at the levels `on`, the ⌈keep · n⌉ with the highest logits of the stage `by` as it
    is now are scored, and each other one with the probability `sample`. Losses that read a network which skips take
    these alone, with 1 / `sample` times the weight for those that were drawn, so that a mean over candidates has the
    same expectation as over all; a loss over lists has shorter lists, and is another loss. Without gradient for `by`.

    Sources: hard examples by a network's own scores, Shrivastava et al., OHEM, CVPR 2016 (arXiv 1604.03540); the weight
    1 / probability, Horvitz and Thompson, JASA 1952.
    """

    by: str
    """The stage whose scores tell; later ones without item vectors skip, and so do teachers."""
    on: list[str] = Field(min_length=1)
    """Levels that were not exposed, or `batch` or `catalogue`."""
    keep: Share = 0.25
    """Share of the candidates of these levels that counts as hard."""
    sample: Share = 0.1
    """Probability of an easy one."""

    def skipping(self, stages: Sequence[tuple[str, bool]], teachers: Sequence[str]) -> list[str]:
        """Return the networks that skip.

        Args:
            stages: in the order of the cascade, each with whether it has item vectors.
            teachers: their names.
        """
        names = [name for name, _ in stages]
        after = stages[names.index(self.by) + 1 :]
        return [*(name for name, has_vectors in after if not has_vectors), *teachers]
