"""Test cases of a bundle: the funnel's own steps, in JSON, and requests that a bundle can rank."""

import json
from pathlib import Path

import numpy as np
import pytest

import corank
from corank.core.errors import RequestError
from corank.serving.conformance.cases import make_case, read_requests
from corank.serving.conformance.drawn_requests import draw_requests
from corank.serving.funnel.request import Request
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
        assert case["answer"] == funnel.rank(request)
        logits = funnel.logits(request)
        for stage, found in case["stages"].items():
            for label, values in found["logits"].items():
                assert np.array(values, np.float32).tolist() == logits[stage][label].tolist()
        count = len(case["candidates"])
        assert [len(row) for row in case["cross"]["ids"]] == [
            len(funnel.schema.row_features("cross").ids)
        ] * count
        assert all(len(lists) == count for lists in case["cross"]["lists"])
        assert len(case["query"]["ids"]) == 1
    assert any(case["answer"]["unknown"] for case in cases)
    assert any(case["described"]["ids"] for case in cases)


def test_requests_are_drawn_by_a_seed() -> None:
    funnel = derived().funnel
    first, again, other = ([*draw_requests(funnel, seed, 3)] for seed in (1, 1, 2))
    assert first == again != other


def test_given_requests_need_a_time_and_are_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"user": {"id": 1}, "candidates": [1]}\n')
    with pytest.raises(RequestError, match="request 1: time: a case needs one"):
        corank.conformance(derived().base / "bundle", tmp_path / "out.jsonl", path)
    assert not (tmp_path / "out.jsonl").exists()
    path.write_text("[]\n")
    with pytest.raises(RequestError, match="line 1: expected an object"):
        [*read_requests(path)]
    with pytest.raises(RequestError, match="expected a request a line"):
        [*read_requests(tmp_path / "absent")]


def test_a_deadline_does_not_change_a_case() -> None:
    funnel = derived().funnel
    request = next(draw_requests(funnel, 3, 1))
    assert "fallback" not in make_case(funnel, request)["answer"]
