"""Every block of commands and of Python of the documentation runs as it is written; `tests.documented` says how."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from supply_chain.lock import ROOT
from tests.documented.pages import Page
from tests.documented.session import Outcome, run_page
from tests.documented.summary import RECORD

FOLDERS = ("start", "guides", "operations", "lab", "extending")
PAGES = [
    *("README.md", "README.zh-CN.md"),
    *(
        str(path.relative_to(ROOT))
        for name in FOLDERS
        for path in sorted((ROOT / "docs" / name).glob("*.md"))
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_of_a_page_run(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    page, outcome, same = Page.read(name), Outcome(), 0
    english = page.english()
    if not page.run:
        return
    if english is not None and [one.essence for one in page.run] == [one.essence for one in english.run]:
        same = len(page.run)
    else:
        outcome = run_page(page, tmp_path)
    record = {"page": name, "ran": outcome.ran, "failed": len(outcome.failed), "same": same}
    record_property(RECORD, json.dumps(record | {"not_run": outcome.not_run}))
    assert not outcome.failed, "\n\n".join(outcome.failed)
