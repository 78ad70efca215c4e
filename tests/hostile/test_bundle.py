"""A bundle and a store's version are hostile input: names, links, sizes, arrays, tables and graphs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest

from corank.bundle.bundle import Bundle, measure_parts
from corank.bundle.graph_files import refuse_references
from corank.bundle.manifest import digest
from corank.bundle.retrieval import RetrievalFacts
from corank.core.arrays import write_array, write_identifiers
from corank.core.errors import BundleError, StoreError
from corank.serving.funnel.funnel import Funnel
from corank.serving.store.fetch import fetch_bundle
from corank.serving.store.publish import publish_bundle
from tests.support.hostile_bundles import NAMES, HostileBundles
from tests.support.hostile_cases import FileWatch
from tests.support.hostile_store import HostileStore
from tests.support.shared import derived
from tests.support.stores import opened

pytestmark = pytest.mark.slow

Edit = Callable[[Path], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(derived().base / "bundle", tmp_path / "bundle"))


def content(bundle: Path) -> Path:
    return bundle / str(json.loads((bundle / "manifest.json").read_bytes())["content"])


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, and make its digest fit."""
    plain = json.loads((bundle / "manifest.json").read_bytes())
    edit(plain)
    (bundle / "manifest.json").write_text(json.dumps(plain | {"digest": digest(plain)}))


def seal(bundle: Path) -> None:
    """Make sizes and checksums fit the parts as they are."""
    parts = {name: part.model_dump() for name, part in measure_parts(content(bundle)).items()}
    edit_manifest(bundle, lambda plain: plain.update(parts=parts))


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as raised:
        Funnel.open(bundle)
    return str(raised.value)


# Names and links


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_another_name_is_refused(bundle: Path, name: str) -> None:
    def rename(plain: dict[str, Any]) -> None:
        plain["parts"][name] = plain["parts"].pop("rank.value.onnx")

    edit_manifest(bundle, rename)
    assert "no part of a bundle is called" in refusal(bundle)


@pytest.mark.parametrize("name", ["../other", "/tmp", "a/b", "..", ".", ""])
def test_a_content_outside_the_bundle_is_refused(bundle: Path, name: str) -> None:
    shutil.copytree(content(bundle), bundle.parent / "other")
    edit_manifest(bundle, lambda plain: plain.update(content=name))
    assert "content: expected the name of a folder" in refusal(bundle)


@pytest.mark.parametrize("part", ["rank.value.onnx", "items/ids.npy", "items", "", "encoders/encoders.json"])
def test_a_link_is_not_followed(bundle: Path, part: str) -> None:
    chosen = content(bundle) / part
    elsewhere = bundle.parent / "elsewhere"
    chosen.rename(elsewhere)
    chosen.symlink_to(elsewhere)
    assert "a link, or no folder" in refusal(bundle)


def test_a_manifest_that_is_a_link_is_not_followed(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "elsewhere")
    (bundle / "manifest.json").symlink_to(bundle.parent / "elsewhere")
    assert "manifest.json: cannot be read" in refusal(bundle)


def test_a_pipe_in_place_of_a_part_does_not_block(bundle: Path) -> None:
    part = content(bundle) / "rank.value.onnx"
    part.unlink()
    os.mkfifo(part)
    assert "not a regular file" in refusal(bundle)


def test_a_file_that_is_no_part_is_refused(bundle: Path) -> None:
    (content(bundle) / "retrieval").mkdir()
    (content(bundle) / "retrieval" / "facts.json").write_text("{}")
    assert "facts.json: no part of the bundle" in refusal(bundle)


def test_a_vocabulary_outside_its_folder_is_refused(bundle: Path) -> None:
    path = content(bundle) / "encoders" / "encoders.json"
    plain = json.loads(path.read_bytes())
    name = next(name for name, fields in plain.items() if "file" in fields)
    path.write_text(json.dumps(plain | {name: plain[name] | {"file": "../../x.npy"}}))
    seal(bundle)
    assert "expected the name of a file in this folder; found '../../x.npy'" in refusal(bundle)


@pytest.mark.parametrize("text", ["[" * 100_000, "{" + '"a":{' * 50_000, "9" * 5000, "\ufeff{}", "NaN", "[]"])
def test_a_manifest_of_garbage_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    assert refusal(bundle).startswith(str(bundle / "manifest.json"))


# Contents of parts


def array(name: str, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Edit:
    def edit(folder: Path) -> None:
        write_array(folder / name, change(np.load(folder / name)))

    return edit


def first(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
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


def smoothing(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None) -> Edit:
    """Change the first smoothing that was fitted, or remove it."""

    def edit(folder: Path) -> None:
        path = min(folder.glob("priors/*/smoothing.npy"))
        if change is None:
            path.unlink()
        else:
            write_array(path, change(np.load(path)))

    return edit


UNSOUND: list[tuple[Edit, str]] = [
    (array("tables/shared/8.npy", lambda values: values[:-1]), "tables/shared/8.npy: expected the shape"),
    (array("tables/shared/8.npy", first(np.nan)), "tables/shared/8.npy: holds an infinity or NaN"),
    (
        array("items/part.prerank.vector.npy", lambda values: values[:, :-1]),
        "part.prerank.vector.npy: expected the shape",
    ),
    (
        array("items/part.prerank.vector.npy", lambda values: values[:-1]),
        "part.prerank.vector.npy: expected float32 of shape",
    ),
    (
        array("items/part.prerank.vector.npy", first(np.inf)),
        "part.prerank.vector.npy: holds an infinity or NaN",
    ),
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
    (
        array("items/vector0.values.npy", lambda values: values[:, :-1]),
        "vector0.values.npy: expected float16",
    ),
    (array("tables/shared/projection0.npy", first(np.inf)), "projection0.npy: holds an infinity or NaN"),
    (
        array("tables/shared/projection0.npy", lambda values: values[:-1]),
        "projection0.npy: expected the shape",
    ),
    (array("priors/0/each.shown.npy", first(np.nan)), "priors/0/each.shown.npy: holds an infinity or NaN"),
    (array("priors/0/each.shown.npy", first(-1)), "priors/0/each.shown.npy: a count is below 0"),
    (array("priors/0/keys.npy", lambda values: values[::-1]), "priors/0/keys.npy: must ascend"),
    *((smoothing(first(x)), "smoothing.npy: expected a number above 0") for x in (np.nan, np.inf, 0, -1)),
    (smoothing(None), "smoothing.npy: expected a number above 0"),
    (smoothing(lambda values: values[:0]), "smoothing.npy: expected the shape (1); found (0,)"),
    (smoothing(lambda values: values[None]), "smoothing.npy: expected the shape (1); found (1, 1)"),
    (smoothing(lambda values: values.astype(np.float32)), "smoothing.npy: expected float64; found float32"),
    (keys(pl.Series([2, 1, *range(3, 17)])), "items/keys: must ascend"),
    (keys(pl.Series([float(n) for n in range(16)])), "items/keys.npy: expected int64; found float64"),
    (garbage("items/keys.npy"), "items/keys.npy: damaged"),
    (offsets([0, *range(4, 64, 4), 63]), "items/keys.offsets.npy: expected ascending offsets, from 0 to 64"),
    (offsets([0, 8, *range(4, 64, 4)]), "items/keys.offsets.npy: expected ascending offsets"),
    (offsets([0, 1, *range(8, 68, 4)]), "items/keys.text.npy: damaged"),
    (garbage("items/ids.npy"), "items/ids.npy: damaged"),
    (garbage("rank.value.onnx"), "rank.value.onnx: refused as a graph"),
    (garbage("encoders/encoders.json"), "encoders cannot be read"),
    (lambda f: np.save(f / "items" / "ids.npy", np.array([{}], dtype=object), allow_pickle=True), "damaged"),
    (
        lambda f: shutil.copy(f / "prerank.item.onnx", f / "rank.value.onnx"),
        "rank.value.onnx: expected the inputs",
    ),
]


@pytest.mark.parametrize(("edit", "message"), UNSOUND)
def test_a_part_that_does_not_fit_is_refused_when_it_is_opened(
    bundle: Path, edit: Edit, message: str
) -> None:
    edit(content(bundle))
    seal(bundle)
    assert message in refusal(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"keep": -1},
        {"deadline_ms": -5.0},
        {"name": "../x"},
        {"labels": ["click", "click"]},
        {"calibrators": {}},
        {"value": "nothing"},
        {"item_parts": {"vector": 0}},
        {"constants": {"scale": float("nan"), "bias": 0.0}},
    ],
)
def test_facts_of_a_stage_that_cannot_be_are_refused(bundle: Path, change: dict[str, Any]) -> None:
    edit_manifest(bundle, lambda plain: plain["stages"][0].update(change))
    assert "stages.0" in refusal(bundle)


@pytest.mark.parametrize("text", ["garbage", "[" * 100_000, "[]", '{"settings": {}}', '{"recall": NaN}'])
def test_retrieval_facts_of_garbage_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "retrieval").mkdir()
    (tmp_path / "retrieval" / "facts.json").write_text(text)
    with pytest.raises(BundleError, match=r"retrieval/facts.json: cannot be read"):
        RetrievalFacts.read(tmp_path)


def external(model: Any) -> Any:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model


def outside_tensor(model: Any) -> Any:
    return external(onnx.ModelProto.FromString(model.SerializeToString())).graph.initializer[0]


def nested(model: Any) -> Any:
    inner = onnx.helper.make_graph([], "inner", [], [], [outside_tensor(model)])
    model.graph.node.append(onnx.helper.make_node("If", [], [], then_branch=inner, else_branch=inner))
    return model


def in_a_function(model: Any) -> Any:
    node = onnx.helper.make_node("Constant", [], ["x"], value=outside_tensor(model))
    model.functions.append(onnx.helper.make_function("own", "f", [], ["x"], [node], []))
    return model


@pytest.mark.parametrize("hide", [external, nested, in_a_function])
def test_a_graph_with_weights_elsewhere_is_refused(bundle: Path, hide: Callable[[Any], Any]) -> None:
    path = content(bundle) / "rank.value.onnx"
    refuse_references(path.read_bytes())
    path.write_bytes(hide(onnx.load(path)).SerializeToString())
    seal(bundle)
    assert "a tensor of it lies in another file" in refusal(bundle)


def test_a_graph_that_loads_and_cannot_be_run_is_refused(bundle: Path) -> None:
    path = content(bundle) / "rank.value.onnx"
    model = onnx.load(path)
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10**6, 10**6]), "far"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["inner", "far"], [output], axis=1))
    path.write_bytes(model.SerializeToString())
    seal(bundle)
    assert "rank.value.onnx: a graph that fails when it is run" in refusal(bundle)


# By way of a store


def test_a_version_of_another_name_touches_nothing(tmp_path: Path) -> None:
    with opened("lmdb", tmp_path) as store:
        for name in ("../../x", "/tmp/x", "", "a" * 16):
            with pytest.raises(StoreError, match="is no name of a version"):
                fetch_bundle(store, name, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_with_links_is_not_written_through(tmp_path: Path) -> None:
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(derived().base / "bundle", store)
        (tmp_path / "cache").mkdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "cache" / version).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BundleError, match="a link, and bundles are written into the cache alone"):
            fetch_bundle(store, version, tmp_path / "cache")
    assert not any((tmp_path / "elsewhere").iterdir())


def test_what_is_fetched_is_byte_for_byte_what_was_published(tmp_path: Path) -> None:
    bundle = derived().base / "bundle"
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(bundle, store)
        fetched = fetch_bundle(store, version, tmp_path / "cache")
    assert fetched.manifest.parts == Bundle.open(bundle).manifest.parts


def test_a_chunk_of_another_length_is_refused(tmp_path: Path) -> None:
    with opened("lmdb", tmp_path) as store:
        version = publish_bundle(derived().base / "bundle", store)
        store.put({f"parts/{version}": [(b"rank.value.onnx/0", bytes(1 << 23))]})
        with pytest.raises(StoreError, match=f"rank.value.onnx of {version} is not whole"):
            fetch_bundle(store, version, tmp_path / "cache")


def test_a_bundle_of_an_older_release_without_ranges_still_opens(bundle: Path) -> None:
    path = content(bundle) / "encoders" / "encoders.json"
    plain = json.loads(path.read_bytes())
    for fields in plain.values():
        fields.pop("low", None)
        fields.pop("high", None)
    path.write_text(json.dumps(plain))
    seal(bundle)
    assert Funnel.open(bundle).request_encoder.encoders.fitted["user_0"].limits is None


# Mutations


def test_mutated_bundles_open_or_are_refused_by_name(tmp_path: Path) -> None:
    case = derived()
    bundles = HostileBundles(case.base / "bundle", case.request("test", 0), tmp_path)
    outcome = bundles.run(100, 12, FileWatch())
    assert (outcome.failed, outcome.hung, outcome.escaped) == (0, 0, 0), outcome.first
    assert outcome.cases == 100 and outcome.accepted < 50


def test_mutated_stores_are_served_or_refused_by_name(tmp_path: Path) -> None:
    case = derived()
    store = HostileStore(case.base / "bundle", case.request("test", 0), tmp_path)
    outcome = store.run(60, 3, FileWatch())
    assert (outcome.failed, outcome.hung, outcome.escaped) == (0, 0, 0), outcome.first
    assert outcome.cases == 60 and outcome.accepted < 40


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
