"""The page on batches lists the fields of batches."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from corank.batches.batch import Batch, padded
from corank.batches.reader import Reader
from corank.features.kinds.prior import PriorFeature
from tests.support.versioned_log import WANTED, pack_versioned_log

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "batch.md"
FIELD = re.compile(r"^\| `(\w+)(?:\[(.*?)\])?` \| (.*?) \| (.*?) \|", re.MULTILINE)


def documented() -> list[tuple[str, str, str, str]]:
    """Field, key, shape and type of each row."""
    text = PAGE.read_text(encoding="utf-8")
    return FIELD.findall(text[text.index("## Fields") : text.index("## Methods")])


def values(batch: Batch, name: str, key: str) -> Iterator[Any]:
    """The values that a row describes: a field's, that of one key, or those of all."""
    part = getattr(batch, name)
    if key.startswith('"'):
        yield part[key.strip('"')]
    elif key:
        yield from part.values()
    else:
        yield part


def test_the_page_has_all_fields_in_their_order() -> None:
    assert list(dict.fromkeys(name for name, *_ in documented())) == [field.name for field in fields(Batch)]


def test_shapes_and_types_are_those_of_batches(tmp_path: Path) -> None:
    prior = PriorFeature.model_validate({"kind": "prior", "by": ["item"], "every": "3h"})
    packed, _ = pack_versioned_log(tmp_path, {"shown": prior})
    checked, rounded = set(), False
    for batch in Reader(packed, "train", 23, WANTED, sees_ranks=True).read_shuffled(0):
        sizes = {"R": len(batch.draws), "C": len(batch), "I": len(batch.item_row)}
        sizes |= {f"{letter}′": padded(sizes[letter]) for letter in "CI"}
        rounded |= sizes["C"] != sizes["C′"] and sizes["I"] != sizes["I′"]
        for name, key, shape, kind in documented():
            for value in values(batch, name, key):
                if isinstance(value, Tensor):
                    width = {"w": value.shape[-1]}
                    expected = [(sizes | width)[letter] for letter in re.findall(r"\w′?", shape)]
                    assert (list(value.shape), str(value.dtype)) == (expected, f"torch.{kind}"), name
                    checked.add(name + key)
                elif shape.endswith("sums"):
                    assert len(value.start) - 1 == sizes[shape.split()[0]], name
                    checked.add(name)
    assert rounded and len(checked) > 20, checked


def test_the_methods_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)\(", text[text.index("## Methods") :], re.MULTILINE)
    assert named and all(callable(getattr(Batch, name)) for name in named)
