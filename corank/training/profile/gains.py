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
    "in_batch": None,
    "unexposed": Gain(
        "cut candidates as negatives, and the ranker's scores on the rest, took the pre-ranker's recall of the truly "
        "best from .339 to .333, from .394 to .461 and from .416 to .563",
        "the simulated worlds weak, medium and strong",
        "docs/results/selection-bias.md",
        ("| alone | .339 | .394 | .416 | .301 |", "| negatives | .333 | .461 | .563 | .340 |"),
    ),
}
"""By kind of feature, loss or setting; None where nothing is measured yet."""
