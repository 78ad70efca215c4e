"""The wheel and the sdist name the commit that they were built from; the wheel has examples/study."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMIT = "corank/commit.txt"
STUDY = "examples/study", "corank/analysis/experiments/study"
"""Files of a checkout, and where a wheel has them."""


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds corank/commit.txt, except to an editable installation, which asks git, and to what is built of an sdist.

    A wheel also gets the files of arms, which an editable installation finds in the checkout.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file aside, and let the build take it."""
        root = Path(self.root)
        if version == "editable":
            return
        if self.target_name == "wheel":
            build_data["force_include"][str(root / STUDY[0])] = STUDY[1]
        if (root / COMMIT).exists():
            return
        commit = runpy.run_path(str(root / "corank/core/version.py"))["corank_commit"]()
        self._written = Path(self.directory) / "commit.txt"
        self._written.parent.mkdir(parents=True, exist_ok=True)
        self._written.write_text(f"{commit}\n", encoding="utf-8")
        build_data["force_include"][str(self._written)] = COMMIT

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was written aside."""
        if hasattr(self, "_written"):
            self._written.unlink()
