"""Records come back as they were, of any schema, or are refused."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from corank.bundle.item_layers import ItemLayer
from corank.bundle.stage_facts import ItemPart
from corank.core.errors import StoreError
from corank.core.ragged import Ragged
from corank.core.stored_matrix import StoredMatrix
from corank.serving.store.record_codec import CRC, RecordFormat, to_ids, to_keys
from tests.support.cases import Case, bare_funnel
from tests.support.random_worlds import DERIVED, ITEMS, RICH, Drawn, drawn_worlds


@dataclass(frozen=True)
class Coded:
    """Items of a random world, with vectors of two stages, and their records."""

    form: RecordFormat
    layer: ItemLayer
    records: dict[bytes, bytes]

    @classmethod
    def of(cls, factory: pytest.TempPathFactory, drawn: Drawn) -> "Coded":
        case = Case.of(factory.mktemp("case"), drawn)
        funnel = bare_funnel(case.packed, factory.mktemp("bare") / "bundle")
        (bare,) = funnel.request_encoder.items.layers
        rng, n = np.random.default_rng(drawn["seed"]), len(bare.records.ids)
        parts = (
            ItemPart("prerank.vector", 3, "fp32"),
            ItemPart("middle.vector", 1, "fp16"),
            ItemPart("rank.item", 4, "int8"),
        )
        form = replace(RecordFormat.from_manifest(funnel.manifest), parts=parts)
        stored = {
            name: StoredMatrix.encode(rng.normal(size=(n, d)).astype(np.float32), p) for name, d, p in parts
        }
        layer = replace(bare, parts=stored)
        return cls(form, layer, dict(form.encode(layer, np.arange(n))))


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Coded:
    return Coded.of(tmp_path_factory, DERIVED)


def same_lists(ours: Ragged, theirs: Ragged) -> None:
    np.testing.assert_array_equal(ours.length, theirs.length)
    np.testing.assert_array_equal(ours.flat(), theirs.flat())
    assert ours.flat().dtype == theirs.flat().dtype


def _arrays(layer: ItemLayer) -> dict[str, NDArray[Any]]:
    """The numbers and the scales of a layer's vectors."""
    arrays = {name: matrix.values for name, matrix in layer.parts.items()}
    return arrays | {f"scale.{name}": v.scale for name, v in layer.parts.items() if v.scale is not None}


def same(ours: ItemLayer, theirs: ItemLayer) -> None:
    """Bit for bit, types included."""
    mine, other = ours.records, theirs.records
    assert mine.ids.values.to_list() == other.ids.values.to_list()
    assert mine.ids.values.dtype == other.ids.values.dtype
    arrays: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (mine.rows.ids, other.rows.ids),
        (mine.rows.numbers, other.rows.numbers),
    ]
    for one, two in (
        (_arrays(ours), _arrays(theirs)),
        (mine.columns, other.columns),
        (mine.operands.keys, other.operands.keys),
        (mine.operands.numbers, other.operands.numbers),
    ):
        assert one.keys() == two.keys()
        arrays += [(one[name], two[name]) for name in one]
    for array, expected in arrays:
        assert array.dtype == expected.dtype and array.shape == expected.shape
        assert array.tobytes() == np.ascontiguousarray(expected).tobytes()
    for one_held, other_held in zip(mine.rows.vectors, other.rows.vectors, strict=True):
        assert one_held.values.dtype == np.float16
        assert one_held.with_missing().tobytes() == other_held.with_missing().tobytes()
    for one_list, other_list in zip(mine.rows.lists, other.rows.lists, strict=True):
        same_lists(one_list, other_list)
    assert mine.operands.lists.keys() == other.operands.lists.keys()
    for name, values in mine.operands.lists.items():
        same_lists(values, other.operands.lists[name])


@pytest.mark.thorough
@pytest.mark.slow
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(drawn=drawn_worlds)
@example(drawn=DERIVED)
@example(drawn=RICH | {"text_ids": True})
def test_records_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, drawn: Drawn) -> None:
    coded = Coded.of(tmp_path_factory, drawn)
    same(coded.form.decode(coded.records), coded.layer)
    some = np.array([11, 2, 7])
    few = dict(coded.form.encode(coded.layer, some))
    assert few.items() <= coded.records.items()
    ids = coded.layer.records.ids.values.gather(np.sort(some))
    assert coded.form.decode(few).records.ids.values.to_list() == ids.to_list()


def test_the_world_has_something_of_every_kind(coded: Coded) -> None:
    rows, operands = coded.layer.records.rows, coded.layer.records.operands
    assert len(rows) == ITEMS and rows.ids.shape[1] and rows.numbers.shape[1]
    assert rows.lists[0].length.max() > rows.lists[0].length.min() == 0
    assert operands.keys and operands.lists and operands.numbers and coded.layer.records.columns


def test_other_programs_can_read_a_part_out(coded: Coded) -> None:
    for part, matrix in coded.layer.parts.items():
        offset, kind, count = coded.form.fields[f"part.{part}"]
        for n, record in enumerate(coded.records.values()):
            read = np.frombuffer(record, dtype=kind, count=count, offset=offset).astype(np.float32)
            if matrix.scale is not None:
                at, scale_kind, _ = coded.form.fields[f"scale.{part}"]
                read *= np.frombuffer(record, dtype=scale_kind, count=1, offset=at)
            np.testing.assert_array_equal(read, matrix.decode()[n])


# Damage


def test_every_flipped_byte_is_found(coded: Coded) -> None:
    key, record = next(iter(coded.records.items()))
    for n in range(len(record)):
        damaged = bytearray(record)
        damaged[n] ^= 1 << n % 8
        assert not coded.form.is_intact(key, bytes(damaged))
        with pytest.raises(
            StoreError, match=r"^the record of item 0 is damaged, or of another model version"
        ):
            coded.form.decode(coded.records | {key: bytes(damaged)})


@pytest.mark.parametrize("size", [0, 1, CRC, CRC + 1, -8, -1])
def test_a_cut_record_is_found(coded: Coded, size: int) -> None:
    key, record = next(iter(coded.records.items()))
    assert not coded.form.is_intact(key, record[:size])
    with pytest.raises(StoreError, match="is damaged"):
        coded.form.decode({key: record[:size]})


def test_a_record_under_another_key_is_found(coded: Coded) -> None:
    first, second = list(coded.records)[:2]
    assert not coded.form.is_intact(first, coded.records[second])
    with pytest.raises(StoreError, match="the record of item 0 is damaged"):
        coded.form.decode({first: coded.records[second]})


def test_a_record_of_another_model_version_is_found(coded: Coded) -> None:
    other = replace(coded.form, model="f" * 16)
    with pytest.raises(StoreError, match="of another model version; publish again"):
        other.decode(coded.records)


@pytest.mark.parametrize("columns", [(), ("worth", "more"), ("worth", "more", "most")])
def test_a_record_of_another_form_is_found(coded: Coded, columns: tuple[str, ...]) -> None:
    """As another release may write them of the same model."""
    other = replace(coded.form, columns=columns)
    with pytest.raises(StoreError, match="publish again"):
        other.decode(coded.records)


# Keys


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1))
def test_keys_of_numbers_are_in_their_order(ids: list[int]) -> None:
    keys = to_keys(pl.Series(ids, dtype=pl.Int64))
    assert to_ids(keys).to_list() == ids
    assert to_ids(sorted(keys)).to_list() == sorted(ids)


@pytest.mark.thorough
@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True, min_size=1))
def test_keys_of_texts_are_in_their_order(ids: list[str]) -> None:
    series = pl.Series(ids)
    keys = to_keys(series)
    assert to_ids(keys).to_list() == ids
    assert to_ids(sorted(keys)).to_list() == series.sort().to_list()
