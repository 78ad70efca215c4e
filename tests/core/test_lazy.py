"""`lazy`: nothing is imported before a name is used."""

import subprocess
import sys

import pytest

from corank.core.lazy import lazy


def test_a_module_is_imported_when_a_name_is_used() -> None:
    code = (
        "import sys\nfrom corank.core.lazy import lazy\nwave = lazy('wave')\n"
        "assert 'wave' not in sys.modules\nassert wave.open\nassert 'wave' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_that_is_absent_fails_when_it_is_used() -> None:
    absent = lazy("absent_module")
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        _ = absent.name
