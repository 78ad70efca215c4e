"""What features and settings gained on other logs: the figures of docs/results and LOG.md that advice quotes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gain:
    """A measured gain, and where it is written."""

    figure: str
    """What was gained by what."""
    log: str
    page: str
    """From the root of the repository."""
    quotes: tuple[str, ...]
    """Text of the page that holds the figures; a test looks it up."""

    def __str__(self) -> str:
        return f"{self.figure}, on {self.log} ({self.page})"


GAINS: dict[str, Gain | None] = {
    "candidates": None,
    "prior": Gain(
        "rates and counts of user, video and author added +.0139 to the ranker's AUC",
        "KuaiRand-Pure",
        "docs/results/kuairand.md",
        ("| day-lagged rates and counts of user, video, author | +.0139 [+.0105, +.0174] |",),
    ),
    "age": Gain(
        "ages of items added .013 to .015 to the AUC of a logistic regression on rates",
        "a simulated news site",
        "LOG.md",
        ("Ages add .013 to .015.",),
    ),
    "within": Gain(
        "the rank of a price added +.032 to the ranker's AUC and +.072 to the pre-ranker's",
        "a drawn site of hotels",
        "docs/results/real-logs.md",
        ("| `hotels`: rank of the price (`kind: within`), also a match | +.032 | +.072 |",),
    ),
    "history": Gain(
        "histories of clicks and long views added +.0021 to the ranker's AUC",
        "KuaiRand-Pure",
        "docs/results/kuairand.md",
        ("| histories of clicks and long views | +.0021 [+.0007, +.0036] |",),
    ),
    "position": None,
    "unexposed": Gain(
        "negatives from what was cut and a softmax over the batch took the joint recall of the truly best from "
        ".2921 to .2990, from .3133 to .3456 and from .3123 to .3697",
        "the simulated worlds weak, medium and strong",
        "docs/results/defaults.md",
        (
            "| **shipped** | .2990 | .3456 | .3697 | .2781 |",
            "| clicks alone | .2921 | .3133 | .3123 | .2622 |",
        ),
    ),
    "in_batch": Gain(
        "a softmax over the batch beside negatives added +.0023 to +.0046 to the joint recall of the truly best",
        "simulated worlds",
        "docs/results/defaults.md",
        ("| `unexposed` .2 | +.0023 [+.0001, +.0045] |", "+.0046 [+.0019, +.0074]"),
    ),
}
"""By kind of feature, loss or setting; None where nothing is measured yet."""
