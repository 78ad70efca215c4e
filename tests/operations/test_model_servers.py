"""The recipes for other servers: Ray Serve answers as the funnel does, and Triton's configurations fit the graphs."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import onnxruntime
import pytest

import corank
from corank.bundle.bundle import Bundle
from corank.training.run import Run
from examples.operations.triton_repository import TYPES, write_repository
from tests.support.ports import free_port
from tests.support.ray_start import start_ray
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow
TENSOR = re.compile(r'{ name: "([^"]+)" data_type: (\w+) dims: \[([-\d, ]*)\] }')


def tensors(text: str, kind: str) -> list[tuple[str, str, list[int]]]:
    """Name, type and sizes of the inputs or outputs of a configuration."""
    (block,) = re.findall(rf"^{kind} \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return [(name, type_, [int(d) for d in dims.split(",")]) for name, type_, dims in TENSOR.findall(block)]


def of_runtime(nodes: Any) -> list[tuple[str, str, list[int]]]:
    """The same of a graph, as ONNX Runtime reads it."""
    return [(n.name, TYPES[n.type], [d if isinstance(d, int) else -1 for d in n.shape]) for n in nodes]


def test_a_model_repository_has_the_graphs_of_the_bundle(trained_bundle: Path, tmp_path: Path) -> None:
    write_repository(trained_bundle, tmp_path / "models")
    bundle = Bundle.open(trained_bundle)
    graphs = {path.stem.replace(".", "_"): path for path in bundle.folder.glob("*.onnx")}
    assert {path.name for path in (tmp_path / "models").iterdir()} == graphs.keys()
    assert {f"{stage.name}_value" for stage in bundle.manifest.stages} <= graphs.keys()
    for name, graph in graphs.items():
        model = tmp_path / "models" / name
        assert (model / "1" / "model.onnx").read_bytes() == graph.read_bytes()
        text, session = (model / "config.pbtxt").read_text(), onnxruntime.InferenceSession(graph)
        assert f'name: "{name}"\n' in text and "max_batch_size: 0\n" in text
        assert f'string_value: "{bundle.manifest.content}"' in text
        assert tensors(text, "input") == of_runtime(session.get_inputs())
        assert tensors(text, "output") == of_runtime(session.get_outputs())
    with pytest.raises(FileExistsError):
        write_repository(trained_bundle, tmp_path / "models")


@pytest.fixture
def address(trained_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of Ray Serve with the example."""
    pytest.importorskip("grpc_reflection", reason="ray[serve]")
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(PATIENCE))
    from ray import serve

    from examples.operations.ray_serve import app

    port = free_port()
    with start_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"source": str(trained_bundle)}))
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_serve_answers_as_the_funnel_does(address: str, trained: Run, trained_bundle: Path) -> None:
    requests = [corank.request(trained.folder, number=n) for n in range(12)]
    funnel = corank.Funnel.open(trained_bundle)
    with ThreadPoolExecutor(len(requests)) as clients:
        answers = [*clients.map(lambda one: httpx2.post(address, json=one), requests)]
    for request, answer in zip(requests, answers, strict=True):
        assert answer.status_code == 200
        expected, received = funnel.rank(request), answer.json()
        assert [one["id"] for one in received["items"]] == [one["id"] for one in expected["items"]]
        assert [one["score"] for one in received["items"]] == pytest.approx(
            [one["score"] for one in expected["items"]], abs=1e-6
        )
        assert received["model_version"] == expected["model_version"]
    refused = httpx2.post(address, json={"candidates": [1]})
    assert (refused.status_code, refused.json()) == (400, {"error": "request: user: required, but not given"})
