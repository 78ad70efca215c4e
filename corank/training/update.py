"""What an update of one learner, or of all, computes: its losses, the networks, and the candidates that each scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from corank.batches.batch import Batch, CandidateSubset
from corank.batches.sampling import Population, merge
from corank.distributed.ranks import Ranks
from corank.losses.total import StepLosses
from corank.models.joint import JointModel
from corank.training.config.config import Config


def scored_populations(config: Config, learner: str | None = None) -> dict[str, Population]:
    """Return the candidates that networks score, by network; one that is not named scores all of a batch.

    Networks whose item vectors meet in a product score all: a candidate costs them next to nothing.

    Args:
        config: its losses and its stages.
        learner: the stage or teacher that learns in the step; all of them if None.
    """
    total = config.total
    every = total.population(learner if config.train.mode == "separate" else None)
    read = total.populations(learner)
    for stage in reversed(config.stages):
        for earlier, what in stage.earlier() if stage.name in read else ():
            # ranks are those among all candidates of the request
            seen = every if what == "rank" else read[stage.name]
            read[earlier] = merge([read.get(earlier, {}), seen])
    vectors = {stage.name for stage in config.stages if stage.has_vectors}
    return {
        name: population for name, population in read.items() if name not in vectors and population != every
    }


@dataclass(frozen=True)
class Update:
    """What an update of one learner, or of all, runs: found once from the config."""

    losses: StepLosses
    computed: Sequence[str]
    """The stages and teachers that are computed."""
    scored: Mapping[str, Population]
    """The candidates that networks score, by network (`scored_populations`)."""
    layers: Sequence[torch.nn.Parameter]
    """The weights outside of tables of what is computed."""

    def prepare(self, batch: Batch) -> None:
        """Make what it reads of a batch alone, on the host, before the batch is copied to a GPU."""
        self.losses.prepare(batch)
        for population in self.scored.values():
            CandidateSubset.of(batch, population)


def sum_gradients(
    model: JointModel, update: Update, ranks: Ranks, means: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Sum the gradients of an update over all ranks: of layers as one buffer, of tables row by row, at the same time.

    A collective. What has a gradient on some rank has one on all of them afterwards, and what has none on any keeps
    none, so that optimisers do on every rank what they would do alone.

    Args:
        model: with the gradients of this rank.
        update: what was computed, the same on all ranks.
        ranks: all of them.
        means: this rank's part of the mean of each loss.

    Returns the means, which are summed along with the gradients of layers.
    """
    if ranks.alone:
        return means
    layers = update.layers
    reading = [name for name in update.computed if name not in model.frozen_tables]
    tables = [model.table_sets[name] for name in dict.fromkeys(model.tables_of[name] for name in reading)]
    by_table = [table_set.reached for table_set in tables]
    reached = [layer.grad is not None for layer in layers] + [some for by_dim in by_table for some in by_dim]
    gradients = [torch.zeros_like(layer) if layer.grad is None else layer.grad for layer in layers]
    flags = torch.tensor(reached, dtype=gradients[0].dtype, device=gradients[0].device)
    parts = torch.stack(list(means.values())).to(flags.dtype)
    buffer = torch.cat([*(gradient.reshape(-1) for gradient in gradients), flags, parts])
    pending = ranks.start_sum(buffer, "gradients of layers")
    for table_set in tables:
        table_set.send_gradients()
    pending.wait()
    *summed, flags, parts = buffer.split([*(layer.numel() for layer in layers), len(flags), len(parts)])
    some_rank = [count > 0 for count in flags.tolist()]
    for layer, gradient, some in zip(layers, summed, some_rank, strict=False):
        layer.grad = gradient.view_as(layer) if some else None
    of_tables = iter(some_rank[len(layers) :])
    for table_set, by_dim in zip(tables, by_table, strict=True):
        table_set.sum_gradients([next(of_tables) for _ in by_dim])
    return dict(zip(means, parts.unbind(), strict=True))
