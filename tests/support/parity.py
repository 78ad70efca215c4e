"""What must hold of the networks of any case: a bundle scores as the model does, and layers name what they read."""

import copy
from typing import Any

import numpy as np
import polars as pl
from scipy.special import expit

from corank.bundle.stage_facts import TOLERANCE
from corank.core.errors import RequestError
from corank.core.types import Floats
from corank.evaluation.predict import predict_split
from corank.funnel.request import Request
from corank.models.joint import JointModel
from corank.models.named_axes import read_axes
from tests.support.cases import Case
from tests.support.examples import assert_example_ranked

SAME = 1e-6
"""Of a probability, between a request alone and one with others."""

Logits = dict[str, dict[str, Floats]]


def assert_scored_as_trained(case: Case) -> None:
    """All requests of the log: users, items never trained on, unknown values, missing ones, no history; examples."""
    compared = 0
    for split in ("train", "valid", "test"):
        predictions = predict_split(case.model, case.packed, split)
        start = predictions.requests.start
        for number in range(len(start) - 1):
            request = case.request(split, number)
            if request["time"] < case.since:
                continue
            compared += 1
            theirs = slice_of(predictions.logits, slice(start[number], start[number + 1]))
            assert_near(case.funnel.logits(Request.parse(request)), theirs, f"{split} {number}")
            if number % 4 == 0 and not _by_id(case):
                _describe_and_compare(case, request, theirs, f"{split} {number}")
    assert compared >= 2
    assert_example_ranked(case)


def assert_ranked_as_alone(case: Case, seed: int = 0) -> None:
    """Fail unless requests of random batches get what each gets alone: odd ones fail alone, ties keep their order."""
    rng, requests = np.random.default_rng(seed), _odd_requests(case)
    for split in ("train", "test"):
        requests += [case.request(split, n) | {"trace": True, "time": n * 10**7} for n in range(6)]
    alone = [_outcome(case, request) for request in requests]
    assert {type(one) for one in alone} == {dict, str}
    for size in (2, 5, len(requests), 3):
        chosen = rng.integers(len(requests), size=size).tolist()
        together = case.funnel.rank_many([copy.deepcopy(requests[n]) for n in chosen])
        for n, ours in zip(chosen, together, strict=True):
            _assert_alike(str(ours) if isinstance(ours, Exception) else ours, alone[n], f"{n} of {chosen}")


def _odd_requests(case: Case) -> list[dict[str, Any]]:
    """Requests that are refused, and whose candidates are unknown, alike, few, or in another order."""
    plain = case.request("test", 0) | {"trace": True}
    ids = [one["id"] if isinstance(one, dict) else one for one in plain["candidates"]]
    strange = [f"new{n}" for n in range(9)] if isinstance(ids[0], str) else [*range(1000, 1009)]
    item = json_columns(case.items, 0)
    described = [{"id": id_} | item for id_ in strange]
    return [
        plain | {"user": {}},
        plain | {"user": plain["user"] | {"nobody": 1}},
        plain | {"candidates": [ids[0], ids[0]]},
        plain | {"candidates": [3, "3"]},
        plain | {"keep": {"nothing": 1}},
        plain | {"candidates": ids[:1]},
        plain | {"candidates": [*ids[::-1], *strange[:2]], "keep": {"prerank": 99}},
        plain | {"candidates": strange[:2]},
        plain | {"candidates": [*ids[:2], *described[:5]], "keep": {"prerank": 4, "rank": 3}},
        plain | {"candidates": [*described[::-1]], "keep": {"prerank": 4}},
    ]


def _outcome(case: Case, request: dict[str, Any]) -> dict[str, Any] | str:
    try:
        return case.funnel.rank(copy.deepcopy(request))
    except RequestError as error:
        return str(error)


def _assert_alike(ours: Any, theirs: Any, where: str) -> None:
    """Fail unless two answers are equal but for the last digits of numbers."""
    if isinstance(theirs, float):
        assert abs(ours - theirs) <= SAME * max(1, abs(theirs)), where
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in theirs.items():
            _assert_alike(ours[key], value, f"{where}: {key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for n, value in enumerate(theirs):
            _assert_alike(ours[n], value, f"{where}: {n}")
    else:
        assert ours == theirs, where


def assert_axes_named(model: JointModel) -> None:
    """Fail unless every named axis has a name of its own for each index."""
    for name, network in model.networks.items():
        weights, named_axes = network.state_dict(), read_axes(network)
        assert named_axes, name
        for weight, axes in named_axes.items():
            for size, names in zip(weights[weight].shape, axes, strict=True):
                assert names is None or len(names) == len(set(names)) == size, (name, weight, names)
                assert names is None or all(names)


def assert_near(ours: Logits, theirs: Logits, where: str) -> None:
    for stage, labels in theirs.items():
        for label, logits in labels.items():
            gaps = expit(ours[stage][label].astype(np.float64)) - expit(logits.astype(np.float64))
            assert len(ours[stage][label]) == len(logits)
            assert np.abs(gaps).max(initial=0) <= TOLERANCE, (where, stage, label, gaps)


def slice_of(logits: Logits, rows: slice | np.ndarray) -> Logits:
    return {s: {label: z[rows] for label, z in labels.items()} for s, labels in logits.items()}


def json_columns(items: pl.DataFrame, row: int) -> dict[str, Any]:
    return {name: value for name, value in items.row(row, named=True).items() if name != "item_id"}


def _by_id(case: Case) -> bool:
    """Whether some derived feature distinguishes items that share a code."""
    schema = case.packed.schema
    operands = [o for feature in schema.derived().values() for o in feature.operands]
    return any((schema.of_items(operand) or operand) == "item_id" for operand in operands)


def _describe_and_compare(case: Case, request: dict[str, Any], theirs: Logits, where: str) -> None:
    """The same candidates, some as items that the bundle has no record of, described by their columns."""
    given_, twins = [], []
    for n, candidate in enumerate(request["candidates"]):
        columns = candidate if isinstance(candidate, dict) else {"id": candidate}
        row = case.items["item_id"].to_list().index(columns["id"])
        twin = next((twin for twin in _twins(case, row) if twin not in twins), None)
        if twin is not None and n % 3 != 1:
            columns = columns | json_columns(case.items, row) | {"id": twin}
            twins.append(twin)
        given_.append(columns)
    answer = case.funnel.logits(Request.parse(request | {"candidates": given_}))
    assert_near(answer, theirs, f"{where}, with {twins} described")


def _twins(case: Case, row: int) -> list[Any]:
    """Ids of no item whose code is that of the row's id; none for an id of the vocabulary."""
    text = case.items["item_id"].dtype == pl.String
    fresh = pl.Series([f"new{n}" for n in range(99)] if text else range(1000, 1099))
    same = case.packed.encoders.encode("item_id", fresh) == case.packed.encoders.encode(
        "item_id", case.items["item_id"][row : row + 1]
    )
    return fresh.filter(pl.Series(np.asarray(same))).to_list()
