"""The command line as a user runs it, in this process."""

import sys

import pytest

from corank.cli.main import main


def run_corank(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `corank ARGUMENTS`."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["corank", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
    out, err = capsys.readouterr()
    return code, out, err
