"""The page on batches lists the fields of batches."""

import re
from dataclasses import fields
from pathlib import Path

from corank.batches.batch import Batch

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "batch.md"
FIELD = re.compile(r"^\| `(\w+)(?:\[(.*?)\])?` \| (.*?) \| (.*?) \|", re.MULTILINE)


def documented() -> list[tuple[str, str, str, str]]:
    """Field, key, shape and type of each row."""
    text = PAGE.read_text(encoding="utf-8")
    return FIELD.findall(text[text.index("## Fields") : text.index("## Methods")])


def test_the_page_has_all_fields_in_their_order() -> None:
    assert list(dict.fromkeys(name for name, *_ in documented())) == [field.name for field in fields(Batch)]
