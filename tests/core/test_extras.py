"""A part of the installation that is missing is named, with the extra that brings it."""

import sys

import pytest
import torch  # noqa: F401

from corank.core.errors import MissingExtraError
from corank.core.lazy import require


def test_a_missing_module_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError) as caught:
        require("optuna", "corank tune")
    assert str(caught.value) == "corank tune needs optuna; install it by pip install 'corank[tune]'"
