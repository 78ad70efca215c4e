"""Two services written for the model of million.py, the references of `corank serve`: same requests and scores.

`naive` is the obvious one: FastAPI and pydantic, PyTorch, every candidate a row with its user's features, no vector
computed ahead. `tuned` is what a good engineer writes by hand: item vectors and the ranker's item inputs as matrices,
arrays from id to row, ONNX Runtime on one thread, bytes in, bytes out, no check that this model does not need.
"""

import argparse
import gc
import math
import os
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime
import torch
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor
from torch.nn import functional

from benchmarks.million import Million
from corank.bundle.bundle import Bundle
from corank.bundle.content import read_parts, read_tables
from corank.bundle.item_records import ItemRecords
from corank.core.types import Floats
from corank.features.encoders import Encoders
from corank.features.encoding import FIRST_KNOWN, MISSING, UNKNOWN, Vocabulary
from corank.features.input_layout import Layout, dense_input
from corank.models.stage_model import StageModel
from corank.training.onnx_graphs import example_request, write_graph
from corank.training.run import Run

CANDIDATES, KEEP, ANSWER = 10_000, 100, 10
"""Most of a request; those that the ranker sees; those of the answer."""
Json = dict[str, Any]
IDS = ("user_id", "age", "gender", "city", "tab", "hour", "device")
AT_ONCE = 65_536
"""Items encoded at once."""


class User(BaseModel):
    id: int
    age: float | None
    gender: str
    city: str | None
    activity: float
    history: list[int]


class Context(BaseModel):
    tab: str
    hour: int
    device: str


class Asked(BaseModel):
    user: User
    context: Context
    candidates: list[int]


class Kept(BaseModel):
    id: int
    score: float


class Answer(BaseModel):
    items: list[Kept]


class Model:
    """What both read of the bundle: how values are encoded, and where items are."""

    def __init__(self, path: Path) -> None:
        self.bundle = Bundle.open(path)
        folder, manifest = self.bundle.folder, self.bundle.manifest
        encoders = Encoders.load(folder / "encoders", manifest.declared)
        self.layout = layout = Layout(manifest.declared, encoders.sizes)
        ((dim, table),) = read_tables(folder, manifest, layout)["shared"].items()
        self.table = np.array(table)
        self.tables = {dim: self.table}
        self.records = ItemRecords.load(folder / "items", encoders, manifest.item_columns)
        assert manifest.declared.row_features("query").ids == IDS
        fitted: Mapping[str, Any] = encoders.fitted
        offset = layout.offset
        self.codes = {n: _codes(fitted[n], offset[n]) for n in IDS if isinstance(fitted[n], Vocabulary)}
        self.items = _codes(fitted["item_id"], offset["item_id"])
        self.unknown = {name: first + UNKNOWN for name, first in offset.items()}
        self.age, self.ages = offset["age"], fitted["age"].edges.tolist()
        self.activity = fitted["activity"]

    def query(self, user: Json, context: Json) -> list[int]:
        """The table's rows of a user and a context, in the order of IDS."""
        codes, unknown, age = self.codes, self.unknown, user["age"]
        return [
            codes["user_id"].get(user["id"], unknown["user_id"]),
            self.age + (MISSING if age is None else FIRST_KNOWN + bisect_right(self.ages, age)),
            codes["gender"].get(user["gender"], unknown["gender"]),
            codes["city"].get(user["city"], unknown["city"]),
            codes["tab"].get(context["tab"], unknown["tab"]),
            codes["hour"].get(context["hour"], unknown["hour"]),
            codes["device"].get(context["device"], unknown["device"]),
        ]

    def scaled(self, activity: float) -> float:
        return float((math.log1p(activity) - self.activity.mean) / self.activity.std)


def _codes(vocabulary: Vocabulary, offset: int) -> dict[Any, int]:
    """Value → row of the table."""
    known = {value: offset + FIRST_KNOWN + n for n, value in enumerate(vocabulary.values.to_list())}
    return known | {None: offset + MISSING}


class Lines(NamedTuple):
    """Codes (n, ·), those of a list and what each counts (n, ·), numbers (n, ·): a row each."""

    ids: Tensor
    listed: Tensor
    weight: Tensor
    numbers: Tensor

    def embedded(self, table: Tensor) -> Tensor:
        pooled = functional.embedding_bag(self.listed, table, mode="sum", per_sample_weights=self.weight)
        return torch.cat((functional.embedding(self.ids, table).flatten(1), pooled, self.numbers), dim=1)


class Naive:
    def __init__(self, made: Million) -> None:
        torch.set_num_threads(1)
        self.model, run = Model(made.bundle), Run.open(made.run)
        joint, calibrators = run.model(run.packed())
        stages: Any = joint.eval().stages
        self.prerank, self.ranker = stages["prerank"], stages["rank"]
        self.platt = calibrators["rank"]["click"]
        self.table = torch.from_numpy(self.model.table)
        self.place = {id_: n for n, id_ in enumerate(self.model.records.ids.values.to_list())}
        self.items = self._items()

    def _items(self) -> Lines:
        rows, (group,) = self.model.records.rows, self.model.layout.groups["item"]
        (tags,), (column,) = rows.lists, group.lists
        there = np.arange(tags.length.max()) < tags.length[:, None]
        listed = np.zeros(there.shape, dtype=np.int64)
        listed[there] = tags.flat() + column.offset
        weight = there / np.maximum(tags.length, 1)[:, None]
        ids = rows.ids[:, group.ids].astype(np.int64) + group.offsets
        parts = (ids, listed, weight.astype(np.float32), np.array(rows.numbers))
        return Lines(*map(torch.from_numpy, parts))

    def query(self, asked: Asked) -> Lines:
        user, model = asked.user, self.model
        codes = model.query(user.model_dump(), asked.context.model_dump())
        seen = [model.items.get(id_, model.unknown["item_id"]) for id_ in user.history]
        return Lines(
            torch.tensor([codes]),
            torch.tensor([seen], dtype=torch.long),
            torch.full((1, len(seen)), 1 / max(len(seen), 1)),
            torch.tensor([[model.scaled(user.activity)]]),
        )

    @torch.inference_mode()
    def rank(self, asked: Asked) -> Answer:
        ids = [id_ for id_ in asked.candidates if id_ in self.place]
        place = torch.tensor([self.place[id_] for id_ in ids])
        query = Lines(*(part.repeat(len(ids), 1) for part in self.query(asked))).embedded(self.table)
        item = Lines(*(part[place] for part in self.items)).embedded(self.table)
        dot = (self.prerank.query_vectors(query) * self.prerank.item_vectors(item)).sum(1)
        kept = dot.topk(min(KEEP, len(ids))).indices
        row = torch.cat((query[kept], item[kept]), dim=1)
        first = functional.linear(row, self.ranker.first.weight, self.ranker.first.bias)
        best = self.ranker.above(first).logits["click"].topk(min(ANSWER, len(kept)))
        scores = torch.sigmoid(best.values * self.platt.slope + self.platt.intercept).tolist()
        best_ids = [ids[n] for n in kept[best.indices].tolist()]
        return Answer(items=[Kept(id=id_, score=score) for id_, score in zip(best_ids, scores, strict=True)])


class Tuned:
    def __init__(self, made: Million) -> None:
        self.model = model = Model(made.bundle)
        folder, ids = model.bundle.folder, model.records.ids.values.to_list()
        self.vectors = read_parts(folder, model.bundle.manifest)["prerank.vector"].decode()
        self.inputs = _inputs(model)
        self.place = _by_id(dict(zip(ids, range(len(ids)), strict=True)), -1)
        self.code = _by_id(model.items, model.unknown["item_id"])
        self.towers, self.ranker = _session(folder / "prerank.query.onnx"), _session(_whole_ranker(made))
        self.platt = model.bundle.manifest.stages[-1].calibrators["click"]
        self.decode, self.encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
        self.first = np.zeros(CANDIDATES, dtype=np.int64)
        # written anew by every request: a loop ranks one at a time
        self.taken = np.empty((CANDIDATES, self.vectors.shape[1]), dtype=np.float32)
        self.dense = np.empty((1, model.layout.width("query")), dtype=np.float32)

    def rank(self, body: bytes) -> bytes:
        asked = self.decode(body)
        (vector,) = self.towers.run(None, {"query": self.query(asked)})
        ids = np.fromiter(asked["candidates"], np.int64, len(asked["candidates"]))
        place = self.place.take(ids, mode="clip")
        if place.min() < 0:
            ids, place = ids[place >= 0], place[place >= 0]
        taken = self.vectors.take(place, axis=0, out=self.taken[: len(place)], mode="clip")
        dot = taken @ vector[0]
        kept = np.argpartition(dot, -KEEP)[-KEEP:] if len(dot) > KEEP else np.arange(len(dot))
        item = self.inputs.take(place[kept], axis=0)
        inputs = {"query": self.dense, "request_of": self.first[: len(kept)], "item": item}
        logits = self.ranker.run(None, inputs)[0][:, 0]
        best = np.argsort(-logits)[:ANSWER]
        scores = 1 / (1 + np.exp(-(self.platt.slope * logits[best] + self.platt.intercept)))
        pairs = zip(ids[kept[best]].tolist(), scores.tolist(), strict=True)
        return self.encode({"items": [{"id": id_, "score": score} for id_, score in pairs]})

    def query(self, asked: Json) -> Floats:
        """The dense input: (1, ·)."""
        user, dense, table = asked["user"], self.dense, self.model.table
        codes = self.model.query(user, asked["context"])
        end = len(codes) * table.shape[1]
        dense[0, :end] = table.take(codes, axis=0).ravel()
        seen = self.code.take(user["history"], mode="clip")
        np.add.reduce(table.take(seen, axis=0), axis=0, out=dense[0, end:-1])
        dense[0, end:-1] /= max(len(seen), 1)
        dense[0, -1] = self.model.scaled(user["activity"])
        return dense


def _whole_ranker(made: Million) -> Path:
    """The graph of the ranker's whole forward, written next to the bundle."""
    run, path = Run.open(made.run), made.folder / f"rank-{os.getpid()}.onnx"
    joint, _ = run.model(run.packed())
    joint = joint.cpu().eval()
    write_graph(path, StageModel.graphs(joint.network("rank"))[""], example_request(joint, "rank"))
    return path


def _inputs(model: Model) -> Floats:
    """The ranker's inputs of every item: (N, ·)."""
    rows = model.records.rows
    places = np.array_split(np.arange(len(rows)), -(-len(rows) // AT_ONCE))
    return np.concatenate(
        [dense_input(rows.take(some), model.layout, "item", model.tables) for some in places]
    )


def _by_id(values: Mapping[int, int], other: int) -> NDArray[np.int64]:
    """An array by id, the last entry for larger ids."""
    ids = [id_ for id_ in values if id_ is not None]
    array = np.full(max(ids) + 2, other)
    array[ids] = [values[id_] for id_ in ids]
    return array


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def naive(made: Million) -> FastAPI:
    service, app = Naive(made), FastAPI()

    @app.post("/rank")
    def rank(asked: Asked) -> Answer:
        return service.rank(asked)

    return app


def tuned(made: Million) -> FastAPI:
    service, app = Tuned(made), FastAPI()

    async def ranked(http: Request) -> Response:
        return Response(service.rank(await http.body()), media_type="application/json")

    app.add_route("/rank", ranked, methods=["POST"])  # past FastAPI's own reading and checking
    gc.freeze()
    return app


RIVALS = {"naive": naive, "tuned": tuned}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=RIVALS)
    parser.add_argument("folder", type=Path, help="of million.py")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvicorn.run(
        RIVALS[options.which](Million(options.folder)),
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
