"""The sum of a config's losses, each reported by name. A config is checked by it without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from corank.batches.sampling import Outcomes, Population, Reading, merge
from corank.core.errors import ConfigError
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, Loss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.distributed.ranks import Pending
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


def weighted_sum(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w·l and Σ w over unmasked candidates."""
    return (torch.where(weights > 0, values, 0) * weights).sum(), weights.sum()


def divide(value: Tensor, weight: Tensor) -> Tensor:
    """A mean from Σ w·l and Σ w; 0 if there is nothing to average."""
    return value / weight.clamp_min(torch.finfo(weight.dtype).tiny)


def sum_means(weights: Sequence[float], means: Sequence[Tensor]) -> Tensor:
    """Σ weight · mean: ()."""
    return torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum()


@dataclass(frozen=True)
class TotalLoss:
    """L = Σ weight(step) · weighted mean of the loss over its candidates."""

    losses: Sequence[Loss]
    funnel: FunnelSpec

    def check(self) -> None:
        """Raise ConfigError if a loss names what does not exist, or two losses give a candidate different targets."""
        for n, loss in enumerate(self.losses):
            loss.check(self.funnel, f"losses.{n}")
        for n, loss in enumerate(self.losses):
            self._check_one_target(loss, n)
            self._check_parameters(loss, n)
            self._check_outcomes(loss, n)
        self._check_extras()

    def check_learners(self, networks: Mapping[str, str]) -> None:
        """Raise ConfigError if no loss trains a stage or teacher.

        Args:
            networks: names of stages and teachers by their key, such as `stages.0`.
        """
        trained = {name for loss in self.losses if loss.weight > 0 for name in self.trained_by(loss)}
        for key, name in networks.items():
            if name not in trained:
                raise ConfigError(
                    f"{key}: no loss trains '{name}'; add one, such as "
                    f"{{kind: click, stage: {name}}}, or drop the stage"
                )

    def check_fitted(self, fitted: Collection[str]) -> None:
        """Raise ConfigError if a loss reads a stage that is fitted before training.

        Args:
            fitted: names of stages.
        """
        for n, loss in enumerate(self.losses):
            if read := [name for name in loss.reads(self.funnel) if name in fitted]:
                raise ConfigError(
                    f"losses.{n}: '{read[0]}' is fitted to the log before training, and a loss ('{loss.name}') can "
                    "neither train it nor learn from it; name others, drop the loss, or let trees teach by "
                    "tree_teachers"
                )

    def trained_by(self, loss: Loss) -> Sequence[str]:
        """The stages and teachers that learn from a loss: every one that it reads if it has no learner of its own."""
        return [loss.learner] if loss.learner else loss.reads(self.funnel)

    def check_teachers(self, teachers: Mapping[str, str]) -> None:
        """Raise ConfigError if no loss learns from a teacher.

        Args:
            teachers: names of teachers by their key, such as `teachers.0`.
        """
        for key, name in teachers.items():
            if all(name not in loss.teachers for loss in self.losses):
                raise ConfigError(
                    f"{key}: nobody learns from '{name}'; add a loss {{kind: distill, teacher: {name}, …}}"
                )

    def check_one_learner(self, mode: str) -> None:
        """Raise ConfigError if a loss trains several stages at once, which only `train.mode: joint` can do."""
        for n, loss in enumerate(self.losses):
            if loss.learner is None:
                raise ConfigError(
                    f"losses.{n}: '{loss.kind}' trains several stages at once, so it needs train.mode: joint; "
                    f"received {mode}"
                )

    def check_teaching_order(self, networks: Sequence[str]) -> None:
        """Raise ConfigError if a teacher trains after its student.

        Args:
            networks: names of stages, then teachers; the last trains first.
        """
        for n, loss in enumerate(self.losses):
            later = networks[: networks.index(loss.learner)] if loss.learner else []
            for teacher in set(loss.teachers) & set(later):
                raise ConfigError(
                    f"losses.{n}: '{teacher}' trains after '{loss.learner}' in train.mode: separate, "
                    "where the last stage is first; take a deeper stage"
                )

    def _check_one_target(self, loss: Loss, n: int) -> None:
        for other in self.losses:
            both = loss.soft_targets(self.funnel) & other.hard_negatives(self.funnel)
            if other.learner == loss.learner and both:
                raise ConfigError(
                    f"losses.{n}.on: candidates of level {', '.join(map(self.funnel.source_name, sorted(both)))} "
                    f"are also hard negatives of '{loss.learner}' ({other.name}); "
                    "a row gets a hard 0 or a teacher's target, never both"
                )

    def _check_outcomes(self, loss: Loss, n: int) -> None:
        """A batch holds one rate of each candidate and label."""
        others = {
            code: wanted for other in self.losses[:n] for code, wanted in other.outcomes(self.funnel).items()
        }
        for code, wanted in loss.outcomes(self.funnel).items():
            if others.get(code, wanted) != wanted:
                raise ConfigError(
                    f"losses.{n}.bias: an earlier loss of '{wanted.label}' has {others[code].bias or 'null'}, this one "
                    f"{wanted.bias or 'null'}; write the same"
                )

    def _check_parameters(self, loss: Loss, n: int) -> None:
        """A loss's own numbers are kept by its name."""
        owners = [other.name for other in self.losses[:n] if other.parameters(self.funnel)]
        if loss.parameters(self.funnel) and loss.name in owners:
            raise ConfigError(
                f"losses.{n}: an earlier '{loss.name}' learns numbers of its own, and only one loss of a name may; "
                "drop one of both"
            )

    def _check_extras(self) -> None:
        """What losses read of `StageOutput.extras` their stages must give, and what a stage gives a loss must read."""
        unread = {(stage, name) for stage, names in self.funnel.extras.items() for name in names}
        for n, loss in enumerate(self.losses):
            for stage, name in ((stage, name) for stage in self.trained_by(loss) for name in loss.extras):
                if name not in self.funnel.extras.get(stage, ()):
                    raise ConfigError(
                        f"losses.{n}: '{loss.kind}' reads '{name}' of '{stage}', whose network does not give it; "
                        "name a stage that does, or let this one"
                    )
                if loss.weight > 0:
                    unread.discard((stage, name))
        for stage, name in sorted(unread):
            kinds = [f"kind: {kind}" for kind in LOSSES if name in LOSSES[kind].extras]
            raise ConfigError(
                f"stages.{stage}: no loss reads its '{name}'; add one that does{', ' * bool(kinds)}"
                f"{' or '.join(kinds)}, or drop what gives it"
            )

    def parameters(self) -> dict[str, list[str]]:
        """Return stage or teacher → the names of the losses that learn a number of their own there."""
        names: dict[str, list[str]] = {}
        for loss in self.losses:
            for stage in loss.parameters(self.funnel):
                names.setdefault(stage, []).append(loss.name)
        return names

    def select(self, learner: str | None) -> list[tuple[str, Loss]]:
        """Return the losses from which one stage learns, or all for None, by name.

        Losses of one name are distinguished by the levels and sources that they learn from; if those are the same, by
        where they stand in the config.
        """
        names = [loss.name for loss in self.losses]
        by_samples = [
            name if names.count(name) == 1 else f"{name}.{self._samples_of(loss)}"
            for name, loss in zip(names, self.losses, strict=True)
        ]
        named = [
            (apart if by_samples.count(apart) == 1 else f"{name}.{n}", loss)
            for n, (apart, name, loss) in enumerate(zip(by_samples, names, self.losses, strict=True))
        ]
        return [(name, loss) for name, loss in named if learner in (None, loss.learner)]

    def _samples_of(self, loss: Loss) -> str:
        """The levels and sources of a loss's candidates, such as `preranked-ranked`."""
        return "-".join(map(self.funnel.source_name, sorted(loss.population(self.funnel))))

    def population(self, learner: str | None = None) -> Population:
        """Return the candidates that at least one loss of a learner, or of all, takes."""
        return merge(loss.population(self.funnel) for _, loss in self.select(learner) if loss.weight > 0)

    def populations(self, learner: str | None = None) -> dict[str, Population]:
        """Return the candidates of which some loss of a learner, or of all, takes a network's output, by network."""
        read: dict[str, list[Population]] = {}
        for _, loss in self.select(learner):
            for name in loss.reads(self.funnel):
                read.setdefault(name, []).append(loss.population(self.funnel))
        return {name: merge(populations) for name, populations in read.items()}

    def readings(self, learner: str | None = None) -> list[Reading]:
        """Return from which candidates each loss of a learner, or of all, learns."""
        losses = [loss for _, loss in self.select(learner) if loss.weight > 0]
        return [Reading(loss.population(self.funnel), tuple(loss.needed_labels())) for loss in losses]

    def outcomes(self, learner: str | None = None) -> dict[int, Outcomes]:
        """Return the outcomes that the losses of a learner, or of all, read: code → what is drawn."""
        drawn: dict[int, Outcomes] = {}
        for _, loss in self.select(learner):
            drawn |= loss.outcomes(self.funnel) if loss.weight > 0 else {}
        return drawn

    def reads(self, learner: str | None = None) -> list[str]:
        """Return the stages and teachers whose outputs the losses take, in the order of the cascade."""
        read = {stage for _, loss in self.select(learner) for stage in loss.reads(self.funnel)}
        return [stage for stage in self.funnel.stages if stage in read]

    def of(self, learner: str | None) -> StepLosses:
        """The losses of one learner, or of all, made ready for its steps, once."""
        if learner not in self._ready:
            self._ready[learner] = StepLosses(self, learner)
        return self._ready[learner]

    @cached_property
    def _ready(self) -> dict[str | None, StepLosses]:
        return {}

    def __call__(
        self, outputs: Mapping[str, StageOutput], batch: Batch, step: int, learner: str | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the total of one learner's losses, or of all, as `StepLosses` does."""
        return self.of(learner)(outputs, batch, step)


class StepLosses:
    """The losses of one update: all that depends on the config alone is found when they are made."""

    def __init__(self, total: TotalLoss, learner: str | None) -> None:
        """`learner`: the stage or teacher that learns in the update; all of them if None."""
        losses = total.select(learner)
        self.reads = total.reads(learner)
        """The stages and teachers whose outputs the losses take, in the order of the cascade."""
        self._names, self._losses = [name for name, _ in losses], [loss for _, loss in losses]
        self._trained = [total.trained_by(loss) for loss in self._losses]
        self._funnel, self._learner = total.funnel, learner

    def prepare(self, batch: Batch) -> None:
        """Make what the losses read of a batch alone, on the host, before it is copied to a GPU."""
        for loss in self._losses:
            loss.prepare(batch, self._funnel)
        if not batch.ranks.alone:
            self._own_weights(batch)

    def announce(self, batch: Batch) -> Pending:
        """Begin to sum the weights that a batch alone decides, over all ranks, unless that is begun. A collective."""
        return batch.once(
            ("summed weights", self._learner),
            lambda: batch.ranks.start_sum(self._own_weights(batch)[0].clone(), "weights of losses"),
        )

    def _own_weights(self, batch: Batch) -> tuple[Tensor, Sequence[int]]:
        """Σ w of each loss on this rank, in fp64: (L,), 0 where outputs decide it; and the numbers of those losses."""

        def make() -> tuple[Tensor, Sequence[int]]:
            weights = [loss.weights(batch, self._funnel) for loss in self._losses]
            sums = [batch.weight.new_zeros(()) if w is None else w.sum() for w in weights]
            undecided = tuple(n for n, w in enumerate(weights) if w is None)
            return torch.stack([part.double() for part in sums]), undecided

        return batch.once(("weights", self._learner), make)

    def __call__(
        self, outputs: Mapping[str, StageOutput], batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the total. A collective if outputs decide the weights of some loss.

        Returns:
            This rank's part of the total, the sum of each loss's mean times its weight, and the detached parts of the
            means by name. Means are over the requests of all ranks: the parts of all ranks add up to them.
        """
        sums = [
            self._sum_members(loss, trained, outputs, batch)
            for loss, trained in zip(self._losses, self._trained, strict=True)
        ]
        if not batch.ranks.alone:
            weights = self._summed_weights([weight for _, weight in sums], batch)
            sums = [(value, w.to(value.dtype)) for (value, _), w in zip(sums, weights, strict=True)]
        parts = [divide(value, weight) for value, weight in sums]
        total = sum_means([loss.weight_at(step) for loss in self._losses], parts)
        return total, {name: part.detach() for name, part in zip(self._names, parts, strict=True)}

    def _summed_weights(self, own: Sequence[Tensor], batch: Batch) -> Sequence[Tensor]:
        """Σ w of each loss over the candidates of all ranks."""
        summed = list(self.announce(batch).wait().unbind())
        undecided = self._own_weights(batch)[1]
        if undecided:
            late = torch.stack([own[n].detach().double() for n in undecided])
            for n, weight in zip(undecided, batch.ranks.sum(late, "weights of losses").unbind(), strict=True):
                summed[n] = weight
        return summed

    def _sum_members(
        self, loss: Loss, trained: Sequence[str], outputs: Mapping[str, StageOutput], batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Σ w·l and Σ w of a loss; with members of what it trains the mean over members, each with its own logits."""
        counts = {outputs[name].member_count for name in trained} - {0}
        if not counts:
            return weighted_sum(*loss.values(outputs, batch, self._funnel))
        parts = []
        for n in range(max(counts)):
            own = {name: outputs[name].member(n) for name in trained}
            parts.append(weighted_sum(*loss.values({**outputs, **own}, batch, self._funnel)))
        return sum_means([1 / len(parts)] * len(parts), [value for value, _ in parts]), parts[0][1]
