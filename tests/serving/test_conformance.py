"""Test cases of a bundle: the funnel's own steps, in JSON, and requests that a bundle can rank."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import corank
from corank.core.errors import DataError, RequestError
from corank.features.encoding import Placement
from corank.funnel.request import Request
from tests.support.command_line import run_corank
from tests.support.shared import derived


def test_a_case_is_what_the_funnel_makes_of_its_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    funnel, out = derived().funnel, tmp_path / "cases.jsonl"
    code, _, text = run_corank(capsys, "conformance", derived().base / "bundle", out, "--number", 10)
    assert code == 0 and "10 cases" in text
    cases = [json.loads(line) for line in out.read_text().splitlines()]
    for case in cases:
        request = Request.parse(case["request"])
        assert case["answer"] == funnel.rank(request) and "fallback" not in case["answer"]
        logits = funnel.logits(request)
        for stage, outputs in case["stages"].items():
            for label, values in outputs["logits"].items():
                assert np.array(values, np.float32).tolist() == logits[stage][label].tolist()
        assert len(case["cross"]) == len(case["candidates"])
        rows_of: dict[Placement, Any] = {"query": [case["query"]], "cross": case["cross"]}
        for placement, rows in rows_of.items():
            assert all(row.keys() == {*funnel.schema.row_features(placement)} for row in rows)
        assert all(row.keys() == {*funnel.schema.record_features} for row in case["described"])
    assert any(case["answer"]["unknown"] for case in cases)
    assert any(case["described"] for case in cases)


def test_given_requests_need_a_time_and_are_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"user": {"id": 1}, "candidates": [1]}\n')
    with pytest.raises(RequestError, match="request 1: time: a case needs one"):
        corank.conformance(derived().base / "bundle", tmp_path / "out.jsonl", path)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_a_reader_made_is_compared_step_by_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, results = tmp_path / "cases.jsonl", tmp_path / "found.jsonl"
    corank.conformance(derived().base / "bundle", cases, number=2)
    assert {row["value"] for row in corank.compare_cases(cases, cases)["rows"]} == {0.0}
    first, second = (json.loads(line) for line in cases.read_text().splitlines())
    stage = next(iter(first["stages"].values()))
    stage["values"][0] += 1e-3
    second["answer"]["items"][0] = {"id": None, "score": second["answer"]["items"][0]["score"]}
    del second["query"]
    results.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    compared = {row["metric"]: row for row in corank.compare_cases(cases, results)["rows"]}
    values, query = compared.pop("values"), compared.pop("query")
    assert values["value"] == pytest.approx(1e-3, rel=1e-3) and values["where"] == "case 1"
    assert (query["differ"], query["n"], query["where"]) == (1, 2, "case 2"), "it has none to compare"
    assert {(row["value"], row["verdict"]) for row in compared.values()} == {(0.0, "agrees")}
    code, text, _ = run_corank(capsys, "compare-cases", cases, results)
    assert code == 1 and re.search(r"values +0\.001 +1 +2 +case 1", text)
    assert run_corank(capsys, "compare-cases", cases, cases)[0] == 0
    results.write_text(json.dumps(first) + "\n")
    with pytest.raises(RequestError, match=r"found.jsonl: expected a line for each of 2 cases; found 1"):
        corank.compare_cases(cases, results)


def test_no_number_differs_from_one(tmp_path: Path) -> None:
    cases, results = tmp_path / "cases.jsonl", tmp_path / "found.jsonl"
    corank.conformance(derived().base / "bundle", cases, number=1)
    made = json.loads(cases.read_text())
    next(iter(made["stages"].values()))["values"][-1] = float("nan")
    results.write_text(json.dumps(made))
    compared = corank.compare_cases(cases, results)
    values = compared.row("agreement.values")
    assert (values["value"], values["differ"], values["verdict"]) == (None, 1, "differs")
    with pytest.raises(DataError, match="values: differ by more than 1e-05"):
        compared.require()
