"""Which candidates each network scores in the steps of a training, by what losses read of it."""

from corank.batches.sampling import Population, merge
from corank.models.scoring import EasyCandidates, Scoring
from corank.training.config import Config


def build_scoring(config: Config, learner: str | None = None) -> Scoring:
    """Find the candidates that networks score.

    Networks whose item vectors meet in a product score all of a batch: a candidate costs them next to nothing.

    Args:
        config: its losses and its stages.
        learner: the stage or teacher that learns in the step; all of them if not given.
    """
    total, easy = config.total, _easy(config, learner)
    every = total.population(learner if config.train.mode == "separate" else None)
    read = total.populations(learner)
    if easy is not None:
        read[easy.settings.by] = merge([read.get(easy.settings.by, {}), easy.population])
    for stage in reversed(config.stages):
        for earlier, what in stage.earlier() if stage.name in read else ():
            # ranks are those among all candidates of the request
            seen = every if what == "rank" else read[stage.name]
            read[earlier] = merge([read.get(earlier, {}), seen])
    vectors = {stage.name for stage in config.stages if stage.has_vectors}
    some = {name: held for name, held in read.items() if name not in vectors and held != every}
    return Scoring(some, easy)


def _easy(config: Config, learner: str | None) -> EasyCandidates | None:
    settings, total = config.train.skip_easy, config.total
    if settings is None:
        return None
    networks = config.skipping
    levels = {total.funnel.source_code(level, "train.skip_easy.on") for level in settings.on}
    read: Population = merge(held for name, held in total.populations(learner).items() if name in networks)
    population = {code: count for code, count in read.items() if code in levels}
    if not population:
        return None
    return EasyCandidates(settings, config.stage(settings.by).main, frozenset(networks), population)
