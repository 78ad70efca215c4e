"""A bundle and a store's version are hostile input: names, links, sizes, arrays, tables and graphs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest

from corank.core.arrays import write_array, write_identifiers
from corank.core.artifact import digest, measure_files
from corank.core.errors import BundleError, StoreError
from corank.funnel.funnel import Funnel
from corank_serve.store.fetch import fetch_bundle
from corank_serve.store.publish import publish_bundle
from tests.support.hostile_bundles import NAMES, HostileBundles, HostileStore
from tests.support.hostile_cases import FileWatch
from tests.support.shared import derived
from tests.support.stores import opened, read_plain, replace_manifest

pytestmark = pytest.mark.slow

Edit = Callable[[Path], object]
Values = np.ndarray[Any, Any]
Change = Callable[[Values], Values]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(derived().base / "bundle", tmp_path / "bundle"))


def content(bundle: Path) -> Path:
    return bundle / str(json.loads((bundle / "manifest.json").read_bytes())["content"])


def edit_manifest(bundle: Path, changes: dict[str, Any]) -> None:
    """Change a manifest, and make its digest fit."""
    plain = json.loads((bundle / "manifest.json").read_bytes()) | changes
    (bundle / "manifest.json").write_text(json.dumps(plain | {"digest": digest(plain)}))


def seal(bundle: Path) -> None:
    """Make sizes and checksums fit the parts as they are."""
    files = measure_files(content(bundle)).items()
    edit_manifest(bundle, {"files": {name: file.model_dump() for name, file in files}})


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as raised:
        Funnel.open(bundle)
    return str(raised.value)


# Names


def test_parts_of_another_name_are_refused(bundle: Path) -> None:
    sound = (bundle / "manifest.json").read_bytes()
    for name in NAMES:
        plain = json.loads(sound)["files"]
        edit_manifest(bundle, {"files": {name: plain.pop("rank.value.onnx"), **plain}})
        assert "no part of a bundle is called" in refusal(bundle), name
        (bundle / "manifest.json").write_bytes(sound)


# Contents of parts


def array(name: str, change: Change) -> Edit:
    """Change an array, or the first of a pattern."""

    def edit(folder: Path) -> None:
        path = min(folder.glob(name))
        write_array(path, change(np.load(path)))

    return edit


def first(value: float) -> Change:
    def change(values: Values) -> Values:
        out = values.copy()
        out.reshape(-1)[0] = value
        return out

    return change


def keys(values: pl.Series) -> Edit:
    return lambda folder: write_identifiers(folder / "items", "keys", values)


def offsets(values: list[int]) -> Edit:
    """Make the ids text, with offsets that may not fit."""

    def edit(folder: Path) -> None:
        (folder / "items" / "keys.npy").unlink()
        write_identifiers(folder / "items", "keys", pl.Series([f"é{n:02d}" for n in range(16)]))
        write_array(folder / "items" / "keys.offsets.npy", np.array(values, np.int64))

    return edit


def garbage(name: str) -> Edit:
    return lambda folder: (folder / name).write_bytes(b"ARROW1\0\0garbage")


def vocabulary(folder: Path) -> None:
    """Name a vocabulary's file outside of the folder of encoders."""
    path = folder / "encoders" / "encoders.json"
    plain = json.loads(path.read_bytes())
    name = next(name for name, fields in plain.items() if "file" in fields)
    path.write_text(json.dumps(plain | {name: plain[name] | {"file": "../../x.npy"}}))


def graph(change: Callable[[onnx.ModelProto], object]) -> Edit:
    """Change the graph of the ranker's value."""

    def edit(folder: Path) -> None:
        model = onnx.load(folder / "rank.value.onnx")
        change(model)
        (folder / "rank.value.onnx").write_bytes(model.SerializeToString())

    return edit


def external(model: onnx.ModelProto) -> onnx.TensorProto:
    """Name another file for a tensor."""
    tensor: onnx.TensorProto = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def outside_tensor(model: onnx.ModelProto) -> onnx.TensorProto:
    return external(onnx.ModelProto.FromString(model.SerializeToString()))


def nested(model: onnx.ModelProto) -> None:
    """Hide such a tensor in a branch."""
    inner = onnx.helper.make_graph([], "inner", [], [], [outside_tensor(model)])
    model.graph.node.append(onnx.helper.make_node("If", [], [], then_branch=inner, else_branch=inner))


def hidden(model: onnx.ModelProto) -> None:
    """Hide it in a function."""
    node = onnx.helper.make_node("Constant", [], ["x"], value=outside_tensor(model))
    model.functions.append(onnx.helper.make_function("own", "f", [], ["x"], [node], []))


def unusable(model: onnx.ModelProto) -> None:
    """Let it load, and fail when it is run."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10**6, 10**6]), "far"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["inner", "far"], [output], axis=1))


VECTOR, SMOOTHING = "items/part.prerank.vector.npy", "priors/*/smoothing.npy"
UNSOUND: list[tuple[Edit, str]] = [
    (array("tables/shared/8.npy", lambda values: values[:-1]), "tables/shared/8.npy: expected the shape"),
    (array("tables/shared/8.npy", first(np.nan)), "tables/shared/8.npy: holds an infinity or NaN"),
    (array(VECTOR, lambda values: values[:, :-1]), "part.prerank.vector.npy: expected the shape"),
    (array(VECTOR, lambda values: values[:-1]), "part.prerank.vector.npy: expected float32 of shape"),
    (array(VECTOR, first(np.inf)), "part.prerank.vector.npy: holds an infinity or NaN"),
    (array("items/ids.npy", first(2**31 - 1)), "items/ids.npy: item_id: codes from"),
    (array("items/ids.npy", first(-1)), "items/ids.npy: item_id: codes from"),
    (array("items/ids.npy", lambda values: values.astype(np.int64)), "items/ids.npy: expected int32"),
    (array("items/numbers.npy", lambda values: values[:-1]), "items/numbers.npy: expected float32 of shape"),
    (array("items/list0.start.npy", first(10**6)), "items/list0: a list begins outside"),
    (array("items/list0.length.npy", first(10**6)), "items/list0: a list ends beyond"),
    (array("items/list0.length.npy", first(-1)), "items/list0: a list begins outside"),
    (array("items/vector0.row.npy", first(10**6)), "items/vector0.row.npy: a vector lies beyond"),
    (array("items/vector0.row.npy", first(-2)), "items/vector0.row.npy: a vector lies beyond"),
    (array("items/vector0.values.npy", first(np.nan)), "vector0.values.npy: holds an infinity or NaN"),
    (array("items/vector0.values.npy", lambda values: values[:, 1:]), "vector0.values.npy: expected float16"),
    (array("tables/shared/projection0.npy", first(np.inf)), "projection0.npy: holds an infinity or NaN"),
    (
        array("tables/shared/projection0.npy", lambda values: values[1:]),
        "projection0.npy: expected the shape",
    ),
    (array("priors/0/each.shown.npy", first(np.nan)), "priors/0/each.shown.npy: holds an infinity or NaN"),
    (array("priors/0/each.shown.npy", first(-1)), "priors/0/each.shown.npy: a count is below 0"),
    (array("priors/0/keys.npy", lambda values: values[::-1]), "priors/0/keys.npy: must ascend"),
    *((array(SMOOTHING, first(x)), "smoothing.npy: expected a number above 0") for x in (np.nan, 0)),
    (lambda folder: min(folder.glob(SMOOTHING)).unlink(), "smoothing.npy: expected a number above 0"),
    (array(SMOOTHING, lambda values: values[:0]), "smoothing.npy: expected the shape (1); found (0,)"),
    (
        array(SMOOTHING, lambda values: values.astype(np.float32)),
        "smoothing.npy: expected float64; found float32",
    ),
    (keys(pl.Series([2, 1, *range(3, 17)])), "items/keys: must ascend"),
    (keys(pl.Series([float(n) for n in range(16)])), "items/keys.npy: expected int64; found float64"),
    (garbage("items/keys.npy"), "items/keys.npy: damaged"),
    (offsets([0, *range(4, 64, 4), 63]), "items/keys.offsets.npy: expected ascending offsets, from 0 to 64"),
    (offsets([0, 8, *range(4, 64, 4)]), "items/keys.offsets.npy: expected ascending offsets"),
    (offsets([0, 1, *range(8, 68, 4)]), "items/keys.text.npy: damaged"),
    (garbage("items/ids.npy"), "items/ids.npy: damaged"),
    (garbage("rank.value.onnx"), "rank.value.onnx: refused as a graph"),
    (garbage("encoders/encoders.json"), "encoders cannot be read"),
    (vocabulary, "expected the name of a file in this folder; found '../../x.npy'"),
    (lambda f: np.save(f / "items" / "ids.npy", np.array([{}], dtype=object), allow_pickle=True), "damaged"),
    (lambda f: shutil.copy(f / "prerank.item.onnx", f / "rank.value.onnx"), "onnx: expected the inputs"),
    *(
        (hide, "a tensor of it lies in another file")
        for hide in (graph(external), graph(nested), graph(hidden))
    ),
    (graph(unusable), "rank.value.onnx: a graph that fails when it is run"),
]


@pytest.mark.parametrize(("edit", "message"), UNSOUND)
def test_a_part_that_does_not_fit_is_refused_when_it_is_opened(
    bundle: Path, edit: Edit, message: str
) -> None:
    edit(content(bundle))
    seal(bundle)
    assert message in refusal(bundle)


STAGE: dict[str, Any] = {
    "keep": -1,
    "deadline_ms": -5.0,
    "name": "../x",
    "labels": ["click", "click"],
    "calibrators": {},
    "value": "nothing",
    "item_parts": {"vector": 0},
    "constants": {"scale": float("nan"), "bias": 0.0},
}


def test_facts_of_a_stage_that_cannot_be_are_refused(bundle: Path) -> None:
    first, *others = json.loads((bundle / "manifest.json").read_bytes())["stages"]
    for key, value in STAGE.items():
        edit_manifest(bundle, {"stages": [first | {key: value}, *others]})
        assert "stages.0" in refusal(bundle), key


def test_retrieval_by_what_has_no_vectors_is_refused(bundle: Path) -> None:
    for stage in ("rank", "nobody"):
        edit_manifest(bundle, {"retrieval": {"stage": stage}})
        assert "retrieval.stage" in refusal(bundle), stage


# By way of a store


def test_names_chunks_and_links_that_leave_the_cache_are_refused(tmp_path: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    with opened("lmdb", tmp_path) as store:
        for name in ("../../x", "/tmp/x", "", "a" * 16):
            with pytest.raises(StoreError, match="is no name of a version"):
                fetch_bundle(store, name, cache)
        assert not cache.exists()
        version = publish_bundle(derived().base / "bundle", store)
        cache.mkdir()
        elsewhere.mkdir()
        (cache / version).symlink_to(elsewhere)
        with pytest.raises(BundleError, match="a link, and bundles are written into the cache alone"):
            fetch_bundle(store, version, cache)
        assert not any(elsewhere.iterdir())
        store.put({f"parts/{version}": [(b"rank.value.onnx/0", bytes(1 << 23))]})
        with pytest.raises(StoreError, match=f"rank.value.onnx of {version} is not whole"):
            fetch_bundle(store, version, tmp_path / "another")


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"files": {"x.onnx": {"bytes": 2**50, "sha256": "0" * 64}}}, "needs 1,125,899,906,842,624 bytes, and"),
    ({"files": {f"{n}.onnx": {"bytes": 0, "sha256": "0" * 64} for n in range(10_001)}}, "files: "),
    ({"files": {}}, "has no items/keys.npy"),
    ({"model_version": "a/b"}, "model_version: expected the name of a folder"),
    ({"content": "0" * 16 + "-1-" + "0" * 8}, "has the manifest of another"),
    ({"name": "x" * (1 << 24)}, "bytes; at most 16,777,216 are read"),
]


def test_a_hostile_manifest_of_a_store_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(derived().base / "bundle", store)
        sound = read_plain(store, version)
        for changes, message in HOSTILE:
            replace_manifest(store, version, sound | changes)
            with pytest.raises((BundleError, StoreError)) as raised:
                fetch_bundle(store, version, cache)
            assert version in str(raised.value) and message in str(raised.value), message
            assert [path.name for path in cache.rglob("*")] == [f".{version}.lock"]


# Mutations


def test_mutated_bundles_and_stores_are_served_or_refused_by_name(tmp_path: Path) -> None:
    bundle, request = derived().base / "bundle", derived().request("test", 0)
    HostileBundles(bundle, request, tmp_path / "bundles").check(100, accepted=50, seed=12)
    HostileStore(bundle, request, tmp_path / "stores").check(60, accepted=40, seed=3)


def test_the_watch_of_the_fuzzing_sees_what_is_touched_elsewhere(tmp_path: Path) -> None:
    canary, allowed, elsewhere = tmp_path / "canary", tmp_path / "allowed", tmp_path / "elsewhere"
    allowed.mkdir()
    canary.write_text("x")
    with FileWatch().armed(canary, allowed) as touched:
        (allowed / "a").write_text("x")
        assert touched == []
        canary.read_text()
        elsewhere.write_text("x")
        (allowed / "a").rename(elsewhere)
    assert touched == [f"open {canary}", f"open {elsewhere}", f"os.rename {elsewhere}"]
