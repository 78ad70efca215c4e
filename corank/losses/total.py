"""The sum of a config's losses, each term told apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corank.batch import Batch
from corank.errors import ConfigError
from corank.losses.distill import Distill
from corank.losses.term import Logits, Scope, Term, mean
from corank.losses.unexposed import Unexposed
from corank.sampling import Population, merge


@dataclass(frozen=True)
class Total:
    """L = Σ factor(step) · mean over the term's candidates."""

    terms: Sequence[Term]
    scope: Scope

    def check(self) -> None:
        """Raise ConfigError where a term names what there is not, or two terms contradict each other."""
        for n, term in enumerate(self.terms):
            term.check(self.scope, f"losses.{n}")
            if isinstance(term, Distill):
                self._one_target_a_row(term, n)

    def _one_target_a_row(self, distill: Distill, n: int) -> None:
        for other in self.terms:
            if isinstance(other, Unexposed) and other.stage == distill.student:
                both = sorted(set(other.levels) & set(distill.on))
                if both:
                    raise ConfigError(
                        f"losses.{n}.on: candidates of level {', '.join(both)} are also hard negatives of "
                        f"'{other.stage}' (unexposed.from); a row gets a hard 0 or a teacher's target, never both"
                    )

    def population(self) -> Population:
        """The candidates that some term learns from."""
        return merge([term.population(self.scope) for term in self.terms if term.weight > 0])

    @property
    def names(self) -> list[str]:
        """A name a term; terms alike but for their settings are numbered."""
        names = [term.name for term in self.terms]
        return [n if names.count(n) == 1 else f"{n}.{k}" for k, n in enumerate(names)]

    def __call__(self, logits: Logits, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's mean before its factor, by name."""
        means = [mean(*term.values(logits, batch, self.scope)) for term in self.terms]
        total = torch.stack(
            [term.factor(step) * value for term, value in zip(self.terms, means, strict=True)]
        ).sum()
        return total, dict(zip(self.names, (value.detach() for value in means), strict=True))
