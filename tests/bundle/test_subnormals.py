"""No number below 2^-126, which some processors compute with a hundred times as slowly, in bundles or from requests."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from corank.funnel.request import Request
from tests.support.cases import Case
from tests.support.parity import assert_scored_as_trained
from tests.support.random_worlds import RICH, Drawn
from tests.support.shared import bare_case, shared_case

SUBNORMAL = 1e-40
NUMBER = {"kind": "number", "scale": "none", "whole": False}
WORLD: Drawn = RICH | {side: [*RICH[side], NUMBER] for side in ("context", "item", "cross")}


def count_subnormals(numbers: Any) -> int:
    """Count the subnormal numbers of 32 bits, by their bits: to a processor that flushes them they are zeros."""
    magnitude = np.asarray(numbers, dtype=np.float32).view(np.uint32) & 0x7FFFFFFF
    return int(((magnitude > 0) & (magnitude < 0x800000)).sum())


def last_column(case: Case, side: str) -> str:
    """The column of the number that WORLD adds to a side."""
    return f"{side}_{len(WORLD[side]) - 1}"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One whose model has subnormal weights everywhere."""
    folder = tmp_path_factory.mktemp("case") / "case"
    shutil.copytree(shared_case(RICH).base, folder, ignore=shutil.ignore_patterns("bundle"))
    made = Case.open(folder, RICH)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter[torch.rand(parameter.shape, generator=generator) < 0.05] = SUBNORMAL
    return made


def read_weights(folder: Path) -> dict[str, list[Any]]:
    """The numbers of 32 bits of a bundle's content, by file."""
    found = {}
    for path in folder.rglob("*.npy"):
        array = np.load(path)
        found[str(path.relative_to(folder))] = [array] if array.dtype == np.float32 else []
    for path in folder.glob("*.onnx"):
        tensors = map(numpy_helper.to_array, onnx.load(path).graph.initializer)
        found[path.name] = [tensor for tensor in tensors if tensor.dtype == np.float32]
    return found


@pytest.mark.slow
def test_a_bundle_of_subnormal_weights_has_none_and_scores_as_the_model(case: Case) -> None:
    assert sum(count_subnormals(weights.detach().numpy()) for weights in case.model.parameters()) > 100
    weights = read_weights(case.funnel.scorer.folder)
    assert {
        name: count for name, some in weights.items() if (count := sum(map(count_subnormals, some)))
    } == {}
    assert all(weights[name] for name in ("rank.value.onnx", "prerank.item.onnx", "tables/shared/8.npy"))
    assert_scored_as_trained(case)
    described = case.funnel.request_encoder.encode_items([10**6], [{}])
    assert described.parts and not any(count_subnormals(part.decode()) for part in described.parts.values())


@pytest.mark.slow
def test_requests_and_items_of_subnormal_numbers_are_encoded_as_zeros() -> None:
    case = bare_case(WORLD)
    request = case.request("test", 0)
    request["context"][last_column(case, "context")] = SUBNORMAL
    cross = last_column(case, "cross")
    request["candidates"] = [dict(one, **{cross: -SUBNORMAL}) for one in request["candidates"]]
    batch = case.funnel.encode(Request.parse(request))
    encoder, at = case.funnel.request_encoder, case.funnel.schema
    rows = {"query": batch.query, "cross": encoder.cross(batch, batch.everyone)}
    for placement, side in (("query", "context"), ("cross", "cross")):
        where = at.row_features(placement).numbers_at[last_column(case, side)]  # type: ignore[arg-type]
        assert not rows[placement].numbers[:, where].any() and not count_subnormals(rows[placement].numbers)
    layer = encoder.encode_items([10**6], [{last_column(case, "item"): SUBNORMAL}])
    assert not count_subnormals(layer.records.rows.numbers)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "flushed"), [("pass", False), ("flush_process_subnormals()", True)])
def test_a_process_that_serves_computes_no_subnormals_and_no_other_changes(
    case: Case, call: str, flushed: bool
) -> None:
    graph = case.funnel.scorer.folder / "rank.value.onnx"
    program = f"""
import sys, threading
from pathlib import Path
import numpy as np
from corank.bundle.graph_files import flush_process_subnormals, open_session
def tell(): print((np.float32(1e-30) * np.float32(1e-10)).view(np.uint32) == 0)
{call}
open_session(Path(sys.argv[1]))
tell()
thread = threading.Thread(target=tell)
thread.start()
thread.join()
np.finfo(np.float64)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, graph], capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr) == ([str(flushed)] * 2, "")
