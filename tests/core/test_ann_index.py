"""Retrieval against plain NumPy: exact searches to the last tie, indexes to their recall, filters and newer rows."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from corank.core.arrays import read_array, write_array
from corank.core.errors import BundleError
from corank.core.settings import validate
from corank.core.stored_matrix import Precision, StoredMatrix
from corank.core.types import Floats
from corank.core.vector_search import (
    EXACT,
    AllowedRows,
    IndexTuning,
    RetrievalSettings,
    Retriever,
    build,
    read_index,
    tune_effort,
    write_index,
)

pytestmark = pytest.mark.slow

KINDS = ["ivf", "hnsw"]
FLAT = IndexTuning(index="flat", k=10, recall=1)


def settings(**keys: Any) -> RetrievalSettings:
    return validate(RetrievalSettings, {"stage": "prerank", **keys}, "a.yaml")


def clustered(items: int, d: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Vectors about 100 centres, of different lengths, and 64 queries, each between two of the centres."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((100, d))
    vectors = centres[random.integers(100, size=items)] + 0.5 * random.standard_normal((items, d))
    vectors *= np.exp(0.2 * random.standard_normal((items, 1)))
    queries = centres[random.integers(100, size=64)] + 0.7 * centres[random.integers(100, size=64)]
    return vectors.astype(np.float32), queries.astype(np.float32)


def best(vectors: Floats, query: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> list[int]:
    """By definition: the positions of the k largest products, ties by position."""
    products = vectors.astype(np.float64) @ query
    order = [n for n in np.argsort(-products, kind="stable").tolist() if mask is None or mask[n]]
    return order[:k]


def share(found: NDArray[np.int64], expected: list[int]) -> float:
    return float(np.isin(expected, found).mean())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Floats, Floats]:
    """20,000 vectors, memory-mapped and read-only as a bundle's are, and queries."""
    vectors, queries = clustered(20_000, 16)
    path = tmp_path_factory.mktemp("vectors") / "vectors.npy"
    write_array(path, vectors)
    return read_array(path), queries


@pytest.fixture(scope="module", params=KINDS)
def retriever(request: pytest.FixtureRequest, many: tuple[Floats, Floats]) -> Retriever:
    """Of 20,000 rows, by an index."""
    asked = settings(index=request.param, keep=200)
    index = build(StoredMatrix(many[0]), asked, seed=1)
    return Retriever(StoredMatrix(many[0]), index, tune_effort(index, StoredMatrix(many[0]), many[1], asked))


@pytest.fixture(scope="module")
def wide() -> Retriever:
    """Of enough rows that a filter can leave more than are searched exactly."""
    vectors, queries = clustered(EXACT + 10_000, 8)
    asked = settings(keep=200)
    index = build(StoredMatrix(vectors), asked, seed=1)
    return Retriever(StoredMatrix(vectors), index, tune_effort(index, StoredMatrix(vectors), queries, asked))


# small whole numbers: every product is exact, and many tie
numbers = st.integers(-2, 2).map(float)
shapes = st.tuples(st.integers(0, 30), st.integers(1, 5))


@st.composite
def worlds(draw: Callable[..., Any]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Vectors, a query and which rows are allowed."""
    items, d = draw(shapes)
    vectors = draw(arrays.arrays(np.float32, (items, d), elements=numbers))
    query = draw(arrays.arrays(np.float32, d, elements=numbers))
    return vectors, query, draw(arrays.arrays(np.bool_, items))


@given(worlds(), st.integers(1, 40))
def test_an_exact_search_is_that_of_the_definition(
    world: tuple[Floats, Floats, NDArray[np.bool_]], k: int
) -> None:
    vectors, query, mask = world
    retriever = Retriever(StoredMatrix(vectors), None, FLAT)
    for allowed, rows in ((None, None), (AllowedRows(mask), mask)):
        positions, scores = retriever.search(query, k, allowed)
        assert positions.tolist() == best(vectors, query, k, rows)
        assert positions.dtype == np.int64 and scores.dtype == np.float32
        np.testing.assert_array_equal(scores, vectors[positions] @ query)


@given(worlds(), st.integers(1, 40), st.data())
def test_newer_rows_take_the_places_that_their_scores_earn(
    world: tuple[Floats, Floats, NDArray[np.bool_]], k: int, data: st.DataObject
) -> None:
    vectors, query, mask = world
    size = data.draw(st.integers(0, 10))
    side = data.draw(arrays.arrays(np.float32, (size, len(query)), elements=numbers))
    side_mask = data.draw(arrays.arrays(np.bool_, size))
    both, either = np.concatenate((vectors, side)), np.concatenate((mask, side_mask))
    retriever = Retriever(StoredMatrix(vectors), None, FLAT)
    positions, scores = retriever.search(
        query, k, AllowedRows(mask), StoredMatrix(side), AllowedRows(side_mask)
    )
    assert positions.tolist() == best(both, query, k, either)
    np.testing.assert_array_equal(scores, both[positions] @ query)
    assert retriever.search(query, k, newer=StoredMatrix(side))[0].tolist() == best(both, query, k)


@pytest.mark.parametrize("d", [1, 2, 4, 8, 12, 16, 37])
def test_equal_vectors_tie_wherever_they_lie(d: int) -> None:
    random = np.random.default_rng(d)
    vector, query = random.standard_normal((2, d)).astype(np.float32)
    vectors = random.standard_normal((1001, d)).astype(np.float32)
    mask = random.random(1001) < 0.3
    vectors[mask] = vector
    index = build(StoredMatrix(vectors), settings(index="hnsw", keep=1001), seed=0)
    every = IndexTuning(index="hnsw", k=1001, recall=1, effort=1001)
    for retriever in (
        Retriever(StoredMatrix(vectors), None, FLAT),
        Retriever(StoredMatrix(vectors), index, every),
    ):
        for allowed in (None, AllowedRows(mask)):
            positions, scores = retriever.search(query, 1001, allowed, newer=StoredMatrix(vectors[mask][:3]))
            alike = scores[np.isin(positions, [*np.flatnonzero(mask), 1001, 1002, 1003])]
            assert len(alike) == mask.sum() + 3
            assert len(set(alike.tolist())) == 1
            assert (np.diff(positions)[np.diff(scores) == 0] > 0).all()


def test_an_index_finds_the_asked_recall(retriever: Retriever, many: tuple[Floats, Floats]) -> None:
    vectors, queries = many
    recalls = [share(retriever.search(query, 200)[0], best(vectors, query, 200)) for query in queries]
    assert np.mean(recalls) >= 0.98
    assert retriever.tuned.recall == pytest.approx(np.mean(recalls), abs=2e-4)
    assert retriever.tuned.k == 200
    assert retriever.tuned.index in KINDS


def test_more_asked_for_or_fewer_allowed_keeps_the_recall(wide: Retriever) -> None:
    _, queries = clustered(EXACT + 10_000, 8)
    items = len(wide.vectors)
    mask = np.random.default_rng(0).random(items) < 0.9
    allowed, fewer = AllowedRows(mask), 0
    assert EXACT < allowed.count < items
    recalls, deeper = [], []
    for query in queries:
        positions, _ = wide.search(query, 200, allowed)
        assert mask[positions].all() and len(positions) == 200
        recalls.append(share(positions, best(wide.vectors.values, query, 200, mask)))
        positions, _ = wide.search(query, 2000)
        deeper.append(share(positions, best(wide.vectors.values, query, 2000)))
        fewer += len(positions) < 2000
    assert min(np.mean(recalls), np.mean(deeper)) > 0.96
    assert fewer == 0
    assert wide.tuned.effort < 200  # of 980 lists: no exhaustive search


@pytest.mark.parametrize("count", [0, 1, 20, 1000])
def test_a_narrow_filter_is_searched_exactly(
    retriever: Retriever, many: tuple[Floats, Floats], count: int
) -> None:
    mask = np.zeros(20_000, dtype=np.bool_)
    mask[np.random.default_rng(count).choice(20_000, count, replace=False)] = True
    for query in many[1][:8]:
        positions, _ = retriever.search(query, 200, AllowedRows(mask))
        assert positions.tolist() == best(many[0], query, 200, mask)


def test_newer_rows_beside_an_index(retriever: Retriever, many: tuple[Floats, Floats]) -> None:
    vectors, queries = many
    query = queries[0]
    plain, scores = retriever.search(query, 10)
    # the first two get worse and another better than all; a new item comes fourth
    stale = [*plain[:2].tolist(), best(vectors, -query, 1)[0]]
    unit = query / (query @ query)
    side = StoredMatrix(
        np.outer([-1, -2, scores[0] + 1, (scores[2] + scores[3]) / 2], unit).astype(np.float32)
    )
    fresh = np.ones(20_000, dtype=np.bool_)
    fresh[stale] = False
    positions, _ = retriever.search(query, 5, AllowedRows(fresh), side)
    assert positions.tolist() == [20_002, plain[2], 20_003, plain[3], plain[4]]
    every, _ = retriever.search(query, 30_000, AllowedRows(fresh), side)
    assert len(every) == 20_000 - 3 + 4
    assert not np.isin(stale, every).any()
    none = AllowedRows(np.array([True, True, False, True]))
    assert retriever.search(query, 2, AllowedRows(fresh), side, none)[0].tolist() == [plain[2], 20_003]


def test_a_query_that_is_no_number_finds_nothing(retriever: Retriever, many: tuple[Floats, Floats]) -> None:
    query = many[1][0].copy()
    query[3] = np.nan
    allowed = AllowedRows(np.arange(20_000) < 500)
    for one in (retriever, Retriever(StoredMatrix(many[0]), None, FLAT)):
        assert [len(array) for array in one.search(query, 10)] == [0, 0]
        assert [len(array) for array in one.search(query, 10, allowed, StoredMatrix(many[0][:3]))] == [0, 0]


def test_an_index_is_read_as_it_was_written(
    retriever: Retriever, many: tuple[Floats, Floats], tmp_path: Path
) -> None:
    assert retriever.index is not None
    path = tmp_path / "é.faiss"
    write_index(retriever.index, path)
    mapped = Retriever(StoredMatrix(many[0]), read_index(path), IndexTuning(**retriever.tuned.model_dump()))
    path.unlink()  # a content that a newer one replaced is still searched
    for query in many[1]:
        for one, other in zip(mapped.search(query, 100), retriever.search(query, 100), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_a_lower_precision_reaches_the_recall_and_scores_by_the_stored_rows(
    kind: str, precision: Precision, many: tuple[Floats, Floats], tmp_path: Path
) -> None:
    stored, queries, asked = StoredMatrix.encode(many[0][:6000], precision), many[1], settings(index=kind)
    asked = asked.model_copy(update={"keep": 100})
    index = build(stored, asked, seed=1)
    assert index is not None
    write_index(index, tmp_path / "a.faiss")
    full = build(StoredMatrix(many[0][:6000]), asked, seed=1)
    write_index(full, tmp_path / "full.faiss")  # type: ignore[arg-type]
    assert (tmp_path / "a.faiss").stat().st_size < (tmp_path / "full.faiss").stat().st_size
    tuned = tune_effort(index, stored, queries, asked)
    assert tuned.recall >= asked.recall
    searcher = Retriever(stored, read_index(tmp_path / "a.faiss"), tuned)
    for query in queries[:8]:
        positions, scores = searcher.search(query, 100)
        assert share(positions, best(stored.decode(), query, 100)) > 0.9
        np.testing.assert_allclose(scores, stored.take(positions) @ query, rtol=1e-5)
    with pytest.raises(BundleError, match=f"in place of {kind} of fp32; export the bundle again"):
        Retriever(StoredMatrix(stored.decode()), index, tuned)
    other: Precision = "int8" if precision == "fp16" else "fp16"
    with pytest.raises(BundleError, match=f"index of other codes than those of {other}"):
        Retriever(StoredMatrix.encode(many[0][:6000], other), index, tuned)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an index at all",
    ],
)
def test_a_broken_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"a\.faiss: no index to read \(.+\); export the bundle again"):
        read_index(path)


def test_an_index_of_other_vectors_is_refused(retriever: Retriever, many: tuple[Floats, Floats]) -> None:
    for vectors in (many[0][:-1], many[0][:, :-1]):
        with pytest.raises(BundleError, match=r"of \(20000, 16\) and vectors of \(\d+, \d+\)"):
            Retriever(StoredMatrix(vectors), retriever.index, retriever.tuned)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_index_by_any_number_of_threads(kind: str, tmp_path: Path) -> None:
    vectors, _ = clustered(5_000, 8)
    before, made = faiss.omp_get_max_threads(), []
    try:
        for n, (threads, seed) in enumerate([(1, 7), (1, 7), (4, 7), (1, 8)]):
            faiss.omp_set_num_threads(threads)
            index = build(StoredMatrix(vectors), settings(index=kind), seed)
            assert index is not None
            write_index(index, tmp_path / f"{n}")
            made.append((tmp_path / f"{n}").read_bytes())
    finally:
        faiss.omp_set_num_threads(before)
    assert made[0] == made[1] == made[2]
    assert (made[0] != made[3]) == (kind == "ivf")  # a graph has nothing to draw


@pytest.mark.parametrize("first, second", [("torch", "faiss"), ("faiss", "torch")])
def test_torch_and_faiss_share_a_process(first: str, second: str) -> None:
    """Each has its own OpenMP."""
    code = f"""
import {first}, {second}
import numpy as np
from corank.core.stored_matrix import StoredMatrix
from corank.core.vector_search import RetrievalSettings, build
vectors = np.random.default_rng(0).standard_normal((4000, 8), dtype=np.float32)
for _ in range(2):
    square = torch.ones(600, 600) @ torch.ones(600, 600)
    assert square.relu().sum() == 600**3
    build(StoredMatrix(vectors), RetrievalSettings(stage="prerank", index="ivf"), 0).search(vectors[:100], 10)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
