"""Versions that served, judged by the log of a service."""

from collections.abc import Sequence
from typing import Annotated

from corank.analysis.comparison_page import served_view
from corank.analysis.html import write_page
from corank.api.results import TableResult
from corank.core.errors import DataError
from corank.core.objects import PathOrUrl, parse_location, require_local
from corank.core.options import Option
from corank.core.time import moment_to_ms
from corank.core.view import View
from corank_serve.rollout.sequential import SequentialTest


class ServedComparisonResult(TableResult):
    """A canary and a shadow compared with the live version, by the log of what was served.

    The column `run` says which of the two a row is of. Rows of `served` have intervals that hold at every look, those
    of a `group` all data until that moment.

    Example:
        >>> corank.compare_served("nowhere")
        Traceback (most recent call last):
        corank.core.errors.DataError: nowhere: no served requests here; `corank serve --log nowhere` writes them
    """

    @property
    def headline(self) -> str:
        """The compared versions, and the verdicts."""
        parts = (self[name] for name in ("canary", "shadow") if self[name] is not None)
        return "; ".join(f"{part['a']} less {part['b']}: {part['verdict']}" for part in parts)

    def view(self) -> View:
        """What is said of the canary and of the shadow."""
        return served_view(self.document)


def compare_served(
    served: PathOrUrl,
    exposures: Sequence[PathOrUrl] = (),
    labels: Annotated[Sequence[str], Option("--label")] = (),
    since: str | None = None,
    until: str | None = None,
    alpha: float = 0.05,
    effect: float = 0.02,
    top: int = 10,
    page: PathOrUrl | None = None,
    share: float | None = None,
) -> ServedComparisonResult:
    """Compare a canary and a shadow with the version that was live meanwhile, by the log of a service.

    A canary's figures are rates of labels, unpaired: users were assigned to one version. A shadow's are
    paired: both versions ranked the same requests. Intervals hold at every look, so that peeking is safe.

    Args:
        served: the folder that `corank serve --log` wrote; of several machines, with all their files.
        exposures: tables of what was shown and what became of it, Parquet or CSV, with `served_id` of the answer, the
            item, and labels; clicks may be in tables of their own. None: no figures of labels.
        labels: columns of labels; all of 0, 1 and null unless given.
        since: the first moment that counts, ISO 8601; all unless given.
        until: the first moment that counts no more.
        alpha: probability at which an interval of any look may miss the true difference.
        effect: about how large a difference is looked for, as a share of the value: intervals are narrowest where it
            shows. They hold whatever it is.
        top: number of items at the top of an answer by which a shadow is compared.
        page: the file or URL of an HTML page to write.
        share: of users that the canary was to have, such as 0.05: it is tested whether users were assigned so. If they
            were not, the verdict is "not comparable".

    Returns what `corank compare-served` prints. Raises DataError.

    Example:
        >>> compared = corank.compare_served("canary/log", ["canary/exposures.parquet", "canary/clicks.csv"])
        >>> compared["canary"]["verdict"], compared["canary"]["users_in_both"]
        ('better', 0)
    """
    for name, value in (("--alpha", alpha), ("--effect", effect), ("--share", share)):
        if value is not None and not 0 < value < 1:
            raise DataError(f"{name}: expected a share above 0 and below 1; received {value:g}")
    if top < 1:
        raise DataError(f"--top: expected 1 or more; received {top}")
    files = [require_local(one) for one in exposures]
    begin, end = _read_moment("--since", since), _read_moment("--until", until)
    from corank_serve.rollout.served_comparison import compare_versions

    document = compare_versions(
        require_local(served), SequentialTest(alpha, effect), files, labels, begin, end, top, share
    )
    result = ServedComparisonResult(document)
    if page is not None:
        write_page(result.view(), parse_location(page))
    return result


def _read_moment(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else moment_to_ms(text)
    except ValueError:
        raise DataError(f"{option}: expected ISO 8601, such as 2026-04-29T12:00; received {text!r}") from None
