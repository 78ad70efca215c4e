"""Random worlds whose stages are of the lab."""

from hypothesis import strategies as st

from tests.support.random_worlds import DERIVED, LISTED, LONG, Drawn, drawn_worlds

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

rankers = st.fixed_dictionaries(
    {
        "model": st.just("mlp_lab"),
        "numbers": st.sampled_from([None, {"kind": "piecewise", "bins": 3}, PIECEWISE, WAVES]),
        "gates": st.sampled_from([None, {"hidden": 3}]),
    }
)
mixtures = st.sampled_from(
    [{}, {"members": 2}, {"members": 3}, {"experts": {"shared": 2, "width": 3}}, {"experts": EXPERTS}]
)
lab_worlds = st.builds(
    lambda world, rank, mixture, structure, din: (
        world | {"rank": rank | mixture, "structure": structure, "din": din}
    ),
    drawn_worlds,
    rankers,
    mixtures,
    st.sampled_from([FOLDED, HEADS]),
    st.none() | st.just(ENCODED),
)
"""Worlds as the core's tests draw them, with stages of the lab."""
