"""The rows that every library reads, as arrays in a folder. Needs numpy alone, on both sides.

Letters: N candidates · L the longest list of a column · F columns of trees.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PADDING = 0
"""The code that stands for no value in a list; the codes of values begin at 1."""
SPLITS = ("train", "valid", "test")
LABEL, USER, FLAT = "label", "user", "flat"
"""The array of clicks, that of users, and that of all features as trees take them."""


@dataclass(frozen=True)
class Column:
    """One feature."""

    name: str
    side: Literal["query", "item", "cross"]
    """Which tower may read it; `cross` is for rankers alone."""
    kind: Literal["id", "list", "number"]
    rows: int = 0
    """Of its table, padding included; 0 for numbers."""
    table: str = ""
    """The id feature whose table it reads: itself, unless it is a list that shares one."""


@dataclass(frozen=True)
class Rows:
    """Exported columns, and the splits' arrays by their names: codes (N,) or (N, L), numbers (N,), `flat` (N, F)."""

    folder: Path
    columns: list[Column]
    categorical: list[int]
    """Those of the F columns of trees that hold codes without an order."""

    def save(self) -> None:
        """Write the description of the arrays; the last file of an export."""
        described: dict[str, Any] = {
            "columns": [asdict(column) for column in self.columns],
            "categorical": self.categorical,
        }
        (self.folder / "columns.json").write_text(json.dumps(described, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Rows":
        """Read what `save` wrote."""
        described = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        return cls(folder, [Column(**column) for column in described["columns"]], described["categorical"])

    def split(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of a split."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            return {key: arrays[key] for key in arrays.files}
