"""Options that earlier versions had: each gets an error that names the way, for this release."""

from collections.abc import Sequence

from corank.core.errors import UsageError

GONE = {
    ("vectors", "--index"): "corank builds no index; write vectors.npy, and add it to one of FAISS",
}
"""(command, option) → what to do."""


def refuse_gone_options(words: Sequence[str]) -> None:
    """Raise UsageError if the words of a command line have an option that is gone."""
    for word in words[1:]:
        option = word.partition("=")[0]
        if (way := GONE.get((words[0], option))) is not None:
            raise UsageError(f"{option}: {way}")
