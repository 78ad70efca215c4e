"""The figures that trainings are compared by, each with its resamples of the users.

They are of the validation split, named as early stopping names them: `STAGE.LABEL.METRIC` of one label of a stage;
`STAGE.METRIC` of what a stage keeps; `METRIC` of the whole cascade, such as `joint_click_recall`; `page.METRIC` of a
page, such as `page.clicks`. The last three have the registered name, without quotas, which may differ between arms.

Letters: S seeds · B resamples of the users, the same for every training.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corank.analysis.run_evaluation import Evaluation
from corank.core.errors import ConfigError, DataError
from corank.core.page import PageSettings
from corank.core.settings import describe_unknown
from corank.core.types import Doubles
from corank.data.packed.dataset import PackedDataset
from corank.evaluation.inputs import Subject
from corank.evaluation.predictions import require_split
from corank.evaluation.rows import KEYS
from corank.evaluation.table import Figure, cascade_rows, measure, page_figure, subjects_of
from corank.metrics.intervals import percentiles
from corank.metrics.metric import METRICS, Metric
from corank.training.checks.log_profile import count_packed
from corank.training.config.config import Config

FEWEST_REQUESTS = 50
"""A verdict rests on so many requests at least.

Of paired differences of a recall, a 95 % interval by resamples covered the truth in 93 of 100 draws of 50 requests, 90
of 20 and 53 of 6. The best of ten equal arms looked better than it was by .08 with 50 requests, and by .19 with 6.
"""


@dataclass(frozen=True)
class KeptFigure:
    """One figure of a trial, with its resamples, as it is kept on disk."""

    value: float
    n: int
    """Rows, requests or users that count."""
    random: float | None
    """The value of a random order."""
    replicates: list[float | None]
    """The value in each resample of the users, the same in every trial: (B,)."""
    requests: int
    """Those that it rests on."""
    place: tuple[str, ...] = ("", "", "", "", "")
    """What is measured: its values of the table's KEYS."""
    better: str | None = None

    @classmethod
    def of(cls, figure: Figure) -> "KeptFigure":
        """Keep a figure that has a value."""
        assert figure.value is not None
        resampled = [None if np.isnan(v) else float(v) for v in figure.replicates]
        facts = figure.requests, figure.place, figure.metric.better
        return cls(figure.value, figure.n, figure.random, resampled, *facts)

    def row(self, run: str, split: str, name: str, **facts: Any) -> dict[str, Any]:
        """Its row, with what else is known of it; `name` is that by which experiments know it."""
        placed = {"run": run, "split": split, **dict(zip(KEYS, self.place, strict=True)), "name": name}
        known: dict[str, Any] = {"value": None, "low": None, "high": None, "n": self.n, "better": self.better}
        known["random"] = None if "base" in facts else self.random
        return placed | known | {"base": None, "rate": None, "requests": self.requests} | facts

    def interval(self) -> "Interval":
        """The value with its 95 % interval over users."""
        return percentile_interval(self.value, np.array(self.replicates, dtype=np.float64))


def keep_figures(figures: Iterable[Figure]) -> dict[str, KeptFigure]:
    """Those that are defined, by their names for searches."""
    return {figure.name: KeptFigure.of(figure) for figure in figures if figure.value is not None}


def replicates_of(trials: Sequence[Mapping[str, KeptFigure]], metric: str) -> NDArray[np.float64]:
    """Values of a metric in each resample of the users, by seed: (S, B), NaN where undefined."""
    return np.array([figures[metric].replicates for figures in trials], dtype=np.float64)


DRAWS = 20
"""Draws of the seeds for each resample of the users."""


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None if there is nothing to resample."""

    @property
    def sign(self) -> int:
        """1 if surely above 0, −1 if surely below, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def mean_over_seeds(values: Sequence[float], replicates: Doubles, seed: int = 0) -> Interval:
    """Mean of a figure over seeds, with a 95 % percentile interval over users and seeds.

    Each resample of the users is combined with `DRAWS` resamples of the seeds. Their deviations from the mean are
    multiplied by √(S / (S − 1)), since a bootstrap of S values understates their variance by that factor squared. With
    one seed the interval is over users alone.

    Args:
        values: the figure by seed, (S,); differences for a paired comparison.
        replicates: the figure in each resample of the users, (S, B), NaN where undefined.
        seed: of the resamples of the seeds.
    """
    s, b = replicates.shape
    whole = replicates.mean(axis=0)
    if s > 1:
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(s, np.full(s, 1 / s), size=(b, DRAWS)) / s
        means = np.einsum("bds,sb->bd", drawn, replicates)
        whole = (whole[:, None] + np.sqrt(s / (s - 1)) * (means - whole[:, None])).ravel()
    return percentile_interval(float(np.mean(values)), whole)


def percentile_interval(value: float, replicates: Doubles) -> Interval:
    """A value with the 95 % percentile interval of its resamples, (B,); NaN resamples are left out."""
    return Interval(value, *(percentiles(replicates) or (None, None)))


SIGN_WORDS = {1: "higher", -1: "lower", 0: "cannot tell"}
"""By the sign of a difference whose interval excludes 0; 0 if it does not."""
TOO_FEW = "too few requests"
"""The verdict on a difference that rests on fewer than `FEWEST_REQUESTS`."""
Figures = Mapping[str, KeptFigure]


def format_difference(found: Mapping[str, Any]) -> str:
    """A difference with its interval, as text."""
    bounds = "" if found["low"] is None else f" [{found['low']:+.4f}, {found['high']:+.4f}]"
    return f"{found['value']:+.4f}{bounds}".replace("-", "−")


def mean_figures(trials: Sequence[Figures]) -> dict[str, dict[str, Any]]:
    """The mean of each figure of the first trial over the seeds that define it, as JSON values."""
    means = {}
    for name, first in (trials[0] if trials else {}).items():
        having = [figures for figures in trials if name in figures]
        values = [figures[name].value for figures in having]
        mean = mean_over_seeds(values, replicates_of(having, name))
        means[name] = mean._asdict() | {"n": first.n, "requests": first.requests, "seeds": values}
    return means


def to_rows(
    run: str, split: str, figures: Figures, found: Mapping[str, Mapping[str, Any]], **facts: Any
) -> list[dict[str, Any]]:
    """Rows of what was found of figures, by name: their means, or, with a `base`, their differences."""
    return [figures[name].row(run, split, name, **one, **facts) for name, one in found.items()]


def plain_differences(pairs: Sequence[tuple[Figures, Figures]]) -> dict[str, Any]:
    """Mean difference of each figure over pairs of trials of the same seed, with intervals over users and seeds.

    Returns JSON values, each with the requests that it rests on, and a verdict unless these are too few.
    """
    results = {}
    for name in [name for name in pairs[0][0] if all(name in one and name in other for one, other in pairs)]:
        values = [one[name].value - other[name].value for one, other in pairs]
        ones, others = (replicates_of([pair[n] for pair in pairs], name) for n in (0, 1))
        interval = mean_over_seeds(values, ones - others)
        requests = min(figures[name].requests for pair in pairs for figures in pair)
        verdict = TOO_FEW if requests < FEWEST_REQUESTS else SIGN_WORDS[interval.sign]
        results[name] = interval._asdict() | {"requests": requests, "verdict": verdict}
    return results


def with_quota(config: Config, quota: int) -> Config:
    """The config with another quota of its first stage."""
    first, *others = config.stages
    return config.model_copy(update={"stages": [first.model_copy(update={"keep": quota}), *others]})


UNKNOWN = {"truth", "truth_rank", "truth_top", "reference_logit"}
"""Inputs that a choice must not read."""


@dataclass(frozen=True)
class Objective:
    """The figure that is searched for."""

    name: str
    metric: Metric
    stages: tuple[str, ...]
    """`STAGE.LABEL` of each stage with the label that it orders by."""

    @classmethod
    def of(cls, config: Config, name: str | None, packed: PackedDataset | None = None) -> "Objective":
        """The figure of a name. Raises ConfigError if there is none, DataError if `packed` has no validation of it.

        Without a name it is the last stage's GAUC, or its AUC where few users of `packed` have both classes. Of the
        figures that a log shows, GAUC of the last stage orders recipes most as the truth does; recalls of clicks order
        them by how closely they follow production (docs/results/joint-training.md).
        """
        mains = tuple(f"{stage.name}.{stage.main}" for stage in config.stages)
        if packed is not None:
            require_split(packed, "valid", "a search chooses by it")
        within_users = packed is None or _count_mixed_users(packed, config.stages[-1].main) >= FEWEST_REQUESTS
        known, name = figure_metrics(config), name or f"{mains[-1]}.{'gauc' if within_users else 'auc'}"
        if name.startswith("page."):  # as evaluation prints it
            name = name.partition("@")[0]
        if name not in known:
            raise ConfigError(f"--metric: {_describe_missing(name, known, config)}")
        objective = cls(name, known[name], mains)
        if packed is not None:
            objective._require_bucket(packed)
            objective._require_enough(objective._most_requests(packed), "at most ")
        return objective

    def _most_requests(self, packed: PackedDataset) -> int:
        """The requests of the validation split that it can rest on, before anything is trained."""
        counts = count_packed(packed, ["valid"])["valid"]
        if self.metric.population != "exposed" or "request" not in self.metric.inputs:
            return counts.requests
        return counts.mixed[self.name.rsplit(".", 2)[1]].requests

    def _require_bucket(self, packed: PackedDataset) -> None:
        """Raise DataError if the figure is of a random bucket, and validation has no request of it."""
        if "propensity" not in self.metric.inputs:
            return
        propensities = (shard.propensity for shard in packed.splits["valid"])
        if all(propensity is None or bool(np.isnan(propensity).all()) for propensity in propensities):
            raise DataError(
                f"--metric {self.name}: is of requests whose exposed candidates were drawn at random, and no candidate "
                f"of the split 'valid' has a propensity (column '{packed.data.propensity}'); change data.split, or "
                f"name another metric, such as {self.stages[-1]}.auc"
            )

    def require_requests(self, figures: Mapping[str, KeptFigure]) -> None:
        """Raise DataError unless validation defines the figure, on enough requests for a verdict."""
        if self.name not in figures:
            raise DataError(
                f"--metric {self.name}: the validation split does not define it, as it has nothing that the metric "
                "compares, such as users or requests with positives and others; name another metric, such as "
                f"{self.stages[-1]}.auc"
            )
        self._require_enough(figures[self.name].requests)

    def _require_enough(self, requests: int, about: str = "") -> None:
        if requests < FEWEST_REQUESTS:
            raise DataError(
                f"--metric {self.name}: rests on {about}{requests} requests of the split 'valid', and a verdict needs "
                f"{FEWEST_REQUESTS}; give 'valid' more of the log (data.split), or name a metric of more requests"
            )

    def merit(self, value: float) -> float:
        """A number that is higher for the better of two values."""
        return self.metric.merit(value)

    def interim_merit(self, figures: Mapping[str, float | None]) -> float | None:
        """The merit of a training that has not ended: of its figure, or of the stages' mean AUC if it has none yet."""
        if self.name in figures:
            value = figures[self.name]
            return None if value is None else self.merit(value)
        aucs = [auc for stage in self.stages if (auc := figures.get(f"{stage}.auc")) is not None]
        return sum(aucs) / len(aucs) if len(aucs) == len(self.stages) else None

    @property
    def of_page(self) -> bool:
        """Whether it is a figure of pages."""
        return self.metric.population == "page"

    def measure(self, evaluated: Evaluation, page: PageSettings | None) -> dict[str, KeptFigure]:
        """The figures of exposed candidates, of cuts and of the cascade, as far as the log defines them.

        Those of the truth of a simulated world are among them, to be shown; `of` lets none of them choose.

        Args:
            evaluated: a run with its predictions.
            page: the page that it ends with. If this is a figure of it, all of its figures are there.
        """
        config = evaluated.run.config
        known = subjects_of(
            evaluated.predictions, config.stages, config.data.levels, evaluated.calibrators, evaluated.truth
        )
        subjects: Iterable[Subject] = (subject for subject in known if subject.population != "candidates")
        if self.of_page and page is not None:
            subjects = chain(subjects, [Subject("", "", "page", evaluated.page_inputs(page))])
        return keep_figures(measure(subjects))

    def by_quota(self, evaluated: Evaluation, quotas: Sequence[int]) -> list[float | None]:
        """The value at each quota of the first stage; None where it is not defined, or rests on too few requests."""
        config, calibrators, values = evaluated.run.config, evaluated.calibrators, list[float | None]()
        rows = cascade_rows(evaluated.predictions, config.stages, calibrators, {})
        for quota in quotas:
            subjects = replace(rows, stages=with_quota(config, quota).stages).subjects(config.data.levels)
            (one,) = measure(subjects, lambda subject, name, metric: name == self.name)
            values.append(one.value if one.requests >= FEWEST_REQUESTS else None)
        return values


def _count_mixed_users(packed: PackedDataset, label: str) -> int:
    """Users of the validation split who have the label as 1 and as 0."""
    shards = packed.splits["valid"]
    users = np.concatenate([np.repeat(shard.user, np.diff(shard.request_start)) for shard in shards])
    labels = np.concatenate([shard.labels[label] for shard in shards])
    return len(np.intersect1d(users[labels == 0], users[labels == 1]))


def figure_metrics(config: Config) -> dict[str, Metric]:
    """Every figure that a config may be compared by, without those of the truth, or of a bucket that it has not."""
    metrics: dict[str, Metric] = {}
    unknown = UNKNOWN if config.data.propensity else UNKNOWN | {"propensity"}
    for metric_name, metric in METRICS.parts().items():
        if unknown & set(metric.inputs):
            continue
        match metric.population:
            case "exposed":
                names = [f"{s.name}.{label}.{metric.name}" for s in config.stages for label in s.labels]
            case "cut":
                names = [f"{stage.name}.{metric_name}" for stage in config.stages[:-1]]
            case "cascade" if len(config.stages) > 1:
                names = [metric_name]
            case "page" if config.page is not None:
                names = [page_figure(metric_name)]
            case _:
                names = []
        metrics |= dict.fromkeys(names, metric)
    return metrics


def _describe_missing(name: str, known: Collection[str], config: Config) -> str:
    """Say why a config cannot be compared by a metric."""
    key = name.rpartition(".")[2]
    metric = METRICS.parts().get(f"page_{key}" if name.startswith("page.") else key)
    inputs = set() if metric is None else set(metric.inputs)
    if "propensity" in inputs and not config.data.propensity:
        return (
            f"'{name}' is of requests whose exposed candidates were drawn at random, and the log has no propensities; "
            "name their column as data.propensity, or another metric, such as joint_click_recall"
        )
    if inputs & UNKNOWN:
        return (
            f"'{name}' reads what a choice must not know, the truth or a reference; name another, such as "
            "joint_click_recall"
        )
    return describe_unknown(name, known, "metric")
