"""The sum of a config's losses, each term told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.sampling import Population, merge
from corank.core.errors import ConfigError
from corank.losses.base import Scope, Term, mean
from corank.losses.distill import Distill
from corank.models.stage_io import StageOutput


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

    def check_learners(self, networks: Mapping[str, str]) -> None:
        """Raise ConfigError if no loss trains a stage or teacher.

        Args:
            networks: names of stages and teachers by their key, such as `stages.0`.
        """
        terms = [term for term in self.terms if term.weight > 0]
        # a loss without a learner of its own trains every stage that it reads
        trained = {name for t in terms for name in ([t.learner] if t.learner else t.reads(self.scope))}
        for key, name in networks.items():
            if name not in trained:
                raise ConfigError(
                    f"{key}: no loss trains '{name}'; add one, such as "
                    f"{{kind: click, stage: {name}}}, or drop the stage"
                )

    def check_teachers(self, teachers: Mapping[str, str]) -> None:
        """Raise ConfigError if no loss learns from a teacher.

        Args:
            teachers: names of teachers by their key, such as `teachers.0`.
        """
        for key, name in teachers.items():
            if all(name not in term.teachers() for term in self.terms):
                raise ConfigError(
                    f"{key}: nobody learns from '{name}'; add a loss {{kind: distill, teacher: {name}, …}}"
                )

    def check_one_learner(self, mode: str) -> None:
        """Raise ConfigError if a loss trains several stages at once, which only `train.mode: joint` can do."""
        for n, term in enumerate(self.terms):
            if term.learner is None:
                raise ConfigError(
                    f"losses.{n}: '{term.kind}' trains several stages at once, so it needs train.mode: joint; "
                    f"received {mode}"
                )

    def check_teaching_order(self, networks: Sequence[str]) -> None:
        """Raise ConfigError if a teacher trains after its student.

        Args:
            networks: names of stages, then teachers; the last trains first.
        """
        for n, term in enumerate(self.terms):
            later = networks[: networks.index(term.learner)] if term.learner else []
            for teacher in set(term.teachers()) & set(later):
                raise ConfigError(
                    f"losses.{n}.teacher: '{teacher}' trains after '{term.learner}' in train.mode: separate, "
                    "where the last stage is first; take a deeper stage"
                )

    def _one_target_a_row(self, distill: Distill, n: int) -> None:
        for other in self.terms:
            if other.learner == distill.student:
                both = other.zeros(self.scope) & {self.scope.levels.index(level) for level in distill.on}
                if both:
                    raise ConfigError(
                        f"losses.{n}.on: candidates of level {', '.join(self.scope.levels[b] for b in sorted(both))} "
                        f"are also hard negatives of '{distill.student}' ({other.name}); "
                        "a row gets a hard 0 or a teacher's target, never both"
                    )

    def of(self, learner: str | None) -> list[tuple[str, Term]]:
        """The terms from which one stage learns, or all, by name; terms alike but for their settings are numbered."""
        names = [term.name for term in self.terms]
        named = [
            (name if names.count(name) == 1 else f"{name}.{n}", term)
            for n, (name, term) in enumerate(zip(names, self.terms, strict=True))
        ]
        return [(name, term) for name, term in named if learner in (None, term.learner)]

    def population(self, learner: str | None = None) -> Population:
        """The candidates that some term, of one learner or of all, learns from."""
        return merge(term.population(self.scope) for _, term in self.of(learner) if term.weight > 0)

    def reads(self, learner: str | None = None) -> list[str]:
        """The stages whose logits the terms take, in the order of the cascade."""
        read = {stage for _, term in self.of(learner) for stage in term.reads(self.scope)}
        return [stage for stage in self.scope.stages if stage in read]

    def __call__(
        self, outputs: Mapping[str, StageOutput], batch: Batch, step: int, learner: str | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's mean before its factor, by name; of one learner's terms, or of all."""
        terms = self.of(learner)
        means = [mean(*term.values(outputs, batch, self.scope)) for _, term in terms]
        total = torch.stack(
            [term.factor(step) * value for (_, term), value in zip(terms, means, strict=True)]
        ).sum()
        return total, {name: value.detach() for (name, _), value in zip(terms, means, strict=True)}
