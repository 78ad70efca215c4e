"""The inputs that a metric of the table may take, by population; `corank.evaluation.inputs` computes them.

Letters: N rows · C candidates · S stages.
"""

from collections.abc import Mapping
from typing import Any, Literal

Population = Literal["exposed", "candidates", "cut", "cascade", "page"]
"""`exposed` and `candidates`: rows are exposed candidates, or all, of one stage and one label. `cut`: what one stage
keeps, measured against the last stage. `cascade`: what all stages together keep. `page`: the slots of a page."""
Inputs = Mapping[str, Any]
"""The inputs of one population by name; None is an input that is not known, such as the truth of a real log."""

_POINT = {
    "user": "the user of each row: (N,)",
    "request": "the number of each row's request: (N,)",
    "day": "the day of each row's request in the log's time zone, counted from 1970-01-01: (N,)",
    "logit": "the stage's logit: (N,)",
    "probability": "σ(logit): (N,)",
    "calibrated": "the calibrated probability: (N,); not known while a model trains",
    "label": "1, 0, or −1 where unknown: (N,)",
    "weight": "the log's weight: (N,)",
}
_STAGES = {
    "requests": "how the C candidates lie in requests: `Requests`",
    "scores": "what each stage orders by, the first stage first: S arrays of (C,)",
    "quotas": "how many candidates each stage but the last keeps: S − 1 numbers",
    "k": "how many candidates the last stage keeps",
    "m": "how many candidates the stage keeps; of the cascade, the last stage but one",
    "exposed": "whether the log exposed the candidate: (C,) bool",
    "propensity": "the probability of exposure, NaN where it was not drawn: (C,); only with `data.propensity`",
    "later": "whether the first label that is known everywhere is 1: (C,) bool; only with such a label",
}
INPUTS: dict[Population, dict[str, str]] = {
    "exposed": _POINT,
    "candidates": _POINT
    | {
        "level": "how deep the log's funnel let the candidate: (N,)",
        "cuts": "levels whose candidates the stage cut; None if the config names none",
        "truth": "the known probability of the label: (N,), or None",
        "reference_logit": "the logit of the reference run: (N,); only with a reference",
    },
    "cut": _STAGES
    | {
        "label": "the stage's main label, 1, 0, or −1 where unknown: (C,)",
        "score": "what the stage orders by: (C,)",
        "rank": "the candidate's rank in its request by `score`, from 0: (C,)",
        "last_index": "the index of the last stage in `scores`",
        "last_value": "the last stage's value, such as a calibrated probability: (C,)",
        "last_rank": "the rank by the last stage: (C,)",
        "truth_rank": "the rank by the true value: (C,), or None",
        "expected": "the last stage's calibrated probability of its main label: (C,)",
    },
    "cascade": _STAGES
    | {
        "clicked": "whether the last stage's main label is 1: (C,) bool",
        "listed": "whether the cascade would show the candidate: (C,) bool; only with `data.propensity`",
        "expected": "the last stage's calibrated probability of its main label: (C,); only with `data.propensity`",
        "truth_top": "whether a candidate is among the k truly best: (C,) bool, or None",
        "kept": "whether the log's own last stage kept the candidate: (C,) bool, or None",
        "last_top": "whether a candidate is among the last stage's top k: (C,) bool",
        "earlier_scores": "`scores` without the last stage; only with three or more stages",
        "earlier_quotas": "the quotas of all but the last two stages; only with three or more stages",
    },
    "page": {
        "requests": "how the C candidates lie in requests: `Requests`",
        "k": "the slots of a page",
        "slot": "the slot of a candidate, from 0; −1 where it is not shown: (C,)",
        "listed": "whether a candidate is shown: (C,) bool",
        "value": "the last stage's value: (C,)",
        "truth": "the true value of what is shown, given the page: (C,), or None",
        "clicked": "whether the last stage's main label is 1: (C,) bool",
        "exposed": "whether the log exposed the candidate: (C,) bool",
        "expected": "the last stage's calibrated probability of its main label: (C,)",
        "propensity": "the probability of exposure, NaN where it was not drawn: (C,); only with `data.propensity`",
        "broken": "slots of each page that break a rule: (R,)",
        "distance": "mean of 1 − similarity of two on each page: (R,), or None without similarity",
        "item": "the item of each candidate, numbered: (C,)",
        "catalogue": "number of items",
        "column": "values of the first feature of values that the page names, numbered, and the candidate of each: "
        "(V,), (V,); None if it names none",
    },
}
"""Population → input → what it is."""
