"""What the tests of a plug-in need, as those of corank use it; needs pytest, and the stores' also hypothesis.

| module | has |
|---|---|
| `parts` | a part registered in one test |
| `worlds` | small simulated worlds, packed, and finished runs of them |
| `parity` | whether a bundle scores requests as the run's evaluation does |
| `batches` | batches made by hand |
| `losses` | what must hold of every loss, and losses of batches made by hand |

`corank_serve.testing` has the contract of a store.
"""
