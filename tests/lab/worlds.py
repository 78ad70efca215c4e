"""Random worlds whose stages are of the lab."""

from tests.support.random_worlds import DERIVED, LISTED, LONG, Drawn

FOLDED: Drawn = {"model": "towers_mlp", "hidden": 5}
HEADS: Drawn = {"model": "towers_heads", "head": 2}
GENERATED: Drawn = {"model": "towers_generated", "generated": [3]}
ENCODED: Drawn = {"hidden": 5, "attributes": True, "encoder": {"layers": 2, "heads": 2, "dim": 3}}
EXPERTS: Drawn = {"shared": 2, "own": 1, "width": 3, "levels": 2}
PIECEWISE: Drawn = {"kind": "piecewise", "bins": 5, "dim": 2}
WAVES: Drawn = {"kind": "periodic", "frequencies": 3, "dim": 2}

MEMBERS: Drawn = {"model": "mlp_lab", "numbers": PIECEWISE, "members": 2, "gates": {"hidden": 3}}
MIXED: Drawn = {"model": "mlp_lab", "numbers": WAVES, "experts": EXPERTS}
WORLDS: dict[str, Drawn] = {
    "members and encoded events": DERIVED | {"structure": FOLDED, "din": ENCODED, "rank": MEMBERS},
    "encoded lists": LISTED
    | {"structure": GENERATED, "several_towers": False, "din": ENCODED, "rank": MEMBERS},
    "experts": LONG | {"structure": HEADS | {"generated": [3]}, "narrow": True, "rank": MIXED},
}
"""Each stage model and option of the lab, at least once."""
