"""Versions that served, judged by the logs of their services."""

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
    """Two versions compared by the logs of what they served.

    Rows of `served` have intervals that hold at every look, those of a `group` all data until that moment.

    Example:
        >>> corank.compare_served("nowhere")
        Traceback (most recent call last):
        corank.core.errors.DataError: nowhere: no served requests here; `corank serve --log nowhere` writes them
    """

    @property
    def headline(self) -> str:
        """The compared versions, and the verdict."""
        return f"{self['a']} less {self['b']}: {self['verdict']}"

    def view(self) -> View:
        """Facts, figures over time, and metrics of the stages."""
        return served_view(self.document)


def compare_served(
    a: PathOrUrl,
    b: Annotated[PathOrUrl | None, Option("B")] = None,
    exposures: Sequence[PathOrUrl] = (),
    labels: Annotated[Sequence[str], Option("--label")] = (),
    versions: Annotated[Sequence[str], Option("--version")] = (),
    since: str | None = None,
    until: str | None = None,
    alpha: float = 0.05,
    effect: float = 0.02,
    page: PathOrUrl | None = None,
    share: float | None = None,
) -> ServedComparisonResult:
    """Compare two versions by their served logs, of split users or of mirrored requests.

    Of split users the figures are rates of labels, unpaired. Requests that are in both logs by their X-Request-Id are
    mirrored: their answers are paired. Intervals hold at every look, so that peeking is safe.

    Args:
        a: the folder that `corank serve --log` wrote; of several machines, with all their files.
        b: the folder of the other service; of a mirrored pair, the one whose answers were shown. None if both versions
            are in `a`.
        exposures: tables of what was shown and what became of it, Parquet or CSV, with `served_id` of the answer, the
            item, and labels; clicks may be in tables of their own. None: no figures of labels.
        labels: columns of labels (default: all of 0, 1 and null).
        versions: the model versions of a and of b; all of each log unless given, and the two of a single one, the newer
            first.
        since: the first moment that counts, ISO 8601 (default: all).
        until: the first moment that no longer counts.
        alpha: probability at which an interval of any look may miss the true difference.
        effect: the expected difference as a share of the value: intervals hold for any, and are narrowest there.
        page: the file or URL of an HTML page to write.
        share: of users that a was to have, such as 0.05: it is tested whether users were assigned so. If they were not,
            the verdict is "not comparable".

    Returns what `corank compare-served` prints. Raises DataError.

    Example:
        >>> compared = corank.compare_served("trial/a", "trial/b", ["trial/exposures.parquet", "trial/clicks.csv"])
        >>> compared["verdict"], compared["users_in_both"]
        ('better', 0)
    """
    for name, value in (("--alpha", alpha), ("--effect", effect), ("--share", share)):
        if value is not None and not 0 < value < 1:
            raise DataError(f"{name}: expected a share above 0 and below 1; received {value:g}")
    if len(versions) not in (0, 2):
        raise DataError(f"--version: expected that of a and that of b; received {', '.join(versions)}")
    files = [require_local(one) for one in exposures]
    begin, end = _read_moment("--since", since), _read_moment("--until", until)
    from corank_serve.rollout.served_comparison import compare_logs

    other = None if b is None else require_local(b)
    test = SequentialTest(alpha, effect)
    document = compare_logs(require_local(a), other, test, files, labels, versions, begin, end, share)
    result = ServedComparisonResult(document)
    if page is not None:
        write_page(result.view(), parse_location(page))
    return result


def _read_moment(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else moment_to_ms(text)
    except ValueError:
        raise DataError(f"{option}: expected ISO 8601, such as 2026-04-29T12:00; received {text!r}") from None
