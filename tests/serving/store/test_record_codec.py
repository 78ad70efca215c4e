"""Records come back as they were, of any schema, or are refused."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from corank.bundle.item_layers import ItemLayer
from corank.bundle.stage_facts import ItemPart
from corank.core.errors import StoreError
from corank.core.ragged import Ragged, Vectors
from corank.core.stored_matrix import StoredMatrix
from corank_serve.store.record_codec import CRC, RecordFormat, to_ids, to_keys
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


def bits(value: Any) -> Any:
    """A value, down to its bits and types, to be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, pl.Series):
        return value.dtype, value.to_list()
    if isinstance(value, Mapping):
        return {name: bits(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [bits(one) for one in value]
    if isinstance(value, Ragged):
        return bits((value.length, value.flat()))
    if isinstance(value, Vectors):
        return value.values.dtype, bits(value.with_missing())
    if isinstance(value, StoredMatrix):
        return bits((value.values, value.scale))
    assert value is None
    return value


def same(ours: ItemLayer, theirs: ItemLayer) -> None:
    """Bit for bit, types included."""

    def all_of(layer: ItemLayer) -> Any:
        rows, operands = layer.records.rows, layer.records.operands
        ids = layer.records.ids.values.alias("")
        parts = (ids, rows.ids, rows.numbers, rows.lists, rows.vectors, layer.records.columns, layer.parts)
        return bits((*parts, operands.keys, operands.lists, operands.numbers))

    assert all_of(ours) == all_of(theirs)


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


def test_every_flipped_byte_a_cut_and_another_key_are_found(coded: Coded) -> None:
    (key, record), (_, other), *_ = coded.records.items()
    damaged = [record[:n] + bytes([byte ^ 1 << n % 8]) + record[n + 1 :] for n, byte in enumerate(record)]
    for one in (*damaged, other, *(record[:size] for size in (0, 1, CRC, CRC + 1, -8, -1))):
        assert not coded.form.is_intact(key, one)
        with pytest.raises(StoreError, match=r"^the record of item 0 is damaged, or of another model"):
            coded.form.decode({key: one})


@pytest.mark.parametrize(
    "changes", [{"model": "f" * 16}, {"columns": ()}, {"columns": ("worth", "more", "most")}]
)
def test_a_record_of_another_model_or_form_is_found(coded: Coded, changes: dict[str, Any]) -> None:
    """As another release may write them of the same model."""
    with pytest.raises(StoreError, match="publish again"):
        replace(coded.form, **changes).decode(coded.records)


# Keys


def check_keys(series: pl.Series) -> None:
    keys = to_keys(series)
    assert to_ids(keys).to_list() == series.to_list()
    assert to_ids(sorted(keys)).to_list() == series.sort().to_list()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1))
def test_keys_of_numbers_are_in_their_order(ids: list[int]) -> None:
    check_keys(pl.Series(ids, dtype=pl.Int64))


@pytest.mark.thorough
@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True, min_size=1))
def test_keys_of_texts_are_in_their_order(ids: list[str]) -> None:
    check_keys(pl.Series(ids))
