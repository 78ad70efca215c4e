"""A shadow against the live version: answers to the same requests, and scores of what was then shown.

Only what the live version had shown has labels, so that figures of labels measure how well the shadow orders and
predicts that, not what it would earn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from corank.analysis.comparison import compare_measures
from corank.analysis.margins import Margins
from corank.analysis.score_comparison import code_rows, measure_scores
from corank.analysis.served.sequential import SequentialTest, compare_pairs
from corank.analysis.served.served_rows import (
    ITEM,
    MODEL,
    TIME,
    USER,
    Exposures,
    ServedLog,
    collect_rows,
    served_score,
)
from corank.core.types import Doubles, Longs, Numbers
from corank.serving.log.log_format import ROLE, SERVED
from corank.serving.role import LIVE

OTHER = "@shadow "
"""Before the names of the shadow's columns."""


def compare_shadow(
    log: ServedLog, shadow: ServedLog, exposures: Exposures | None, test: SequentialTest, top: int
) -> dict[str, Any] | None:
    """Compare the log's last shadow with the live version, on the requests that both ranked.

    Args:
        log: what was answered.
        shadow: what the shadow would have answered.
        exposures: what was shown; None for no figures of labels.
        test: of differences over time.
        top: number of items at the top of an answer that are compared.

    Returns the document, None if both ranked no request. Raises DataError.
    """
    offered, answered = shadow.requests(), log.requests().filter(pl.col(ROLE) == LIVE)
    if not len(offered):
        return None
    version = offered[MODEL][-1]
    pairs = answered.join(offered.filter(pl.col(MODEL) == version), on=SERVED, how="semi")
    if not len(pairs):
        return None
    wanted = pairs.lazy().select(SERVED)
    ours = collect_rows(log.rows.join(wanted, on=SERVED, how="semi"), log.source)
    theirs = collect_rows(shadow.rows.join(wanted, on=SERVED, how="semi"), shadow.source)
    stages = [stage for stage in log.stages if stage in shadow.stages]
    scores = [served_score(stage) for stage in stages]
    named = theirs.select(SERVED, ITEM, pl.col(scores).name.prefix(OTHER))
    both = ours.join(named, on=[SERVED, ITEM], how="inner")
    document: dict[str, Any] = {
        "a": f"shadow {version}",
        "b": f"live {', '.join(pairs[MODEL].unique(maintain_order=True))}",
        "from": str(pairs[TIME].min()),
        "until": str(pairs[TIME].max()),
        "requests": len(pairs),
        "candidates": len(both),
        "agreement": _agreement(_ranked(ours, log.stages), _ranked(theirs, shadow.stages), top),
        "scores": {stage: _differences(both, served_score(stage)) for stage in stages},
        "sequential": {},
        "stages": {},
    }
    if exposures is None:
        return document
    shown = exposures.join(log).join(named, on=[SERVED, ITEM], how="inner", maintain_order="left")
    document["exposures"] = len(shown)
    for stage in stages:
        measured, sequential = _measured(shown, stage, exposures.labels, test)
        if measured:
            document["stages"][stage] = {"exposed": measured}
        document["sequential"] |= sequential
    return document


def _ranked(rows: pl.DataFrame, stages: Sequence[str]) -> pl.DataFrame:
    """The rank of each candidate in its request: first by the last stage that scored it, then by its score."""
    scores = [served_score(stage) for stage in stages]
    depth = pl.sum_horizontal(pl.col(name).is_finite().fill_null(False).cast(pl.Int64) for name in scores)
    last = pl.coalesce(pl.col(name).fill_nan(None) for name in reversed(scores))
    ordered = rows.select(SERVED, ITEM, depth.alias("depth"), last.alias("score")).filter(pl.col("depth") > 0)
    ordered = ordered.sort("depth", "score", descending=True, maintain_order=True)
    return ordered.select(SERVED, ITEM, pl.int_range(1, pl.len() + 1).over(SERVED).alias("rank"))


def _agreement(ours: pl.DataFrame, theirs: pl.DataFrame, top: int) -> dict[str, Any]:
    """How near the two orders are at the top, over requests."""
    mine, other = ours.filter(pl.col("rank") <= top), theirs.filter(pl.col("rank") <= top)
    sizes = mine.group_by(SERVED).agg(pl.len().alias("size"))
    common = mine.join(other, on=[SERVED, ITEM], how="inner").group_by(SERVED).agg(pl.len().alias("common"))
    shares = sizes.join(common, on=SERVED, how="left").select(pl.col("common").fill_null(0) / pl.col("size"))
    moved = mine.join(theirs, on=[SERVED, ITEM], how="inner", suffix="_other")
    first = mine.filter(pl.col("rank") == 1).join(
        other.filter(pl.col("rank") == 1), on=[SERVED, ITEM], how="inner"
    )
    return {
        "top": top,
        "overlap": _mean(shares.to_series()),
        "same_first": len(first) / max(1, len(sizes)),
        "rank_difference": _mean((moved["rank"] - moved["rank_other"]).abs()),
    }


def _differences(both: pl.DataFrame, score: str) -> dict[str, Any]:
    """How a stage's scores of the same candidates differ: shadow minus live."""
    known = both.filter(pl.col(score).is_finite() & pl.col(OTHER + score).is_finite())
    gap = known[OTHER + score] - known[score]
    absolute = gap.abs()
    correlated = len(known) > 1 and bool(known.select(pl.corr(score, OTHER + score).is_finite()).item())
    return {
        "candidates": len(known),
        "a": _mean(known[OTHER + score]),
        "b": _mean(known[score]),
        "mean": _mean(gap),
        "mean_absolute": _mean(absolute),
        "p99_absolute": float(absolute.quantile(0.99) or 0.0) if len(known) else None,
        "correlation": float(known.select(pl.corr(score, OTHER + score)).item()) if correlated else None,
    }


def _mean(values: pl.Series) -> float | None:
    return float(values.cast(pl.Float64).to_numpy().mean()) if len(values) else None


def _measured(
    shown: pl.DataFrame, stage: str, labels: Sequence[str], test: SequentialTest
) -> tuple[dict[str, Any], dict[str, Any]]:
    """By label the metrics of both versions on what was shown, paired; and log losses over time."""
    score, measured, sequential = served_score(stage), dict[str, Any](), dict[str, Any]()
    for label in labels:
        rows = shown.filter(
            pl.col(label).is_not_null() & pl.col(score).is_finite() & pl.col(OTHER + score).is_finite()
        )
        if not len(rows):
            continue
        values = [rows[OTHER + score].to_numpy(), rows[score].to_numpy()]
        clicked, user = rows[label].to_numpy(), code_rows(rows, [USER])
        request = code_rows(rows, [SERVED])
        ours, theirs = (measure_scores(one, clicked, user, request) for one in values)
        measured[label] = compare_measures("exposed", ours, theirs, Margins())
        if all(((one >= 0) & (one <= 1)).all() for one in values):
            time: Longs = rows[TIME].dt.timestamp("ms").to_numpy()
            a, b = (_log_loss(one, clicked) for one in values)
            result = compare_pairs(time, user, a, b, test, higher=False)
            sequential[f"{stage}: log loss of {label}"] = result
    return measured, sequential


def _log_loss(probability: Numbers, label: Numbers) -> Doubles:
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return -np.log(np.where(label == 1, p, 1 - p))
