"""Modules that are imported when they are used."""

import gc
from pathlib import Path

import pytest

from corank.core.lazy import lazy, without_collection


def test_no_garbage_is_looked_for_while_a_module_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_lately.py").write_text("import gc\ncollects = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert gc.isenabled()
    assert lazy("imported_lately").collects is False
    assert gc.isenabled()


def test_what_does_not_collect_does_not_collect_afterwards() -> None:
    gc.disable()
    try:
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
