"""A part of the installation that is missing is named, with the extra that brings it."""

import sys
from importlib import import_module

import pytest
import torch  # noqa: F401

from corank.core.errors import MissingExtraError
from corank.core.lazy import DeferredModule, name_missing_extra, require


def test_what_is_installed_is_returned() -> None:
    assert require("train", "torch") is sys.modules["torch"]


def test_a_missing_module_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError) as caught:
        require("tune", "optuna", "corank tune")
    assert str(caught.value) == "corank tune needs optuna; install it by pip install 'corank[tune]'"


def test_an_import_in_a_block_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = r"^corank report needs matplotlib; install it by pip install 'corank\[train\]'$"
    with pytest.raises(MissingExtraError, match=said), name_missing_extra("corank report"):
        import matplotlib.figure  # noqa: F401


def test_a_module_of_no_extra_stays_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="absent"), name_missing_extra("corank train"):
        import_module("absent_of_the_user")


def test_a_deferred_module_is_that_module(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DeferredModule("train", "torch", "corank train").nn is sys.modules["torch"].nn
    absent = DeferredModule("retrieval", "faiss", "retrieval")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match="retrieval needs faiss"):
        _ = absent.Index
