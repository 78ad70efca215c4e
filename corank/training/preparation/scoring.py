"""Which candidates each network scores in the steps of a training, by what losses read of it."""

from corank.batches.sampling import Population, merge
from corank.training.config import Config


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
