"""Numbers as people read them, on the terminal and on pages."""

from collections.abc import Mapping, Sequence


def format_metric(value: float | None) -> str:
    """Format a metric to four decimals; None, where it is not defined, as a dash.

    Example:
        >>> format_metric(0.5)
        '0.5000'
    """
    return "-" if value is None else f"{value:.4f}"


def name_differences(differing: Mapping[str, str]) -> str:
    """Name the first five of what differs, each with what is said of it.

    Example:
        >>> name_differences({"seed": "1 there, 2 now"})
        'seed: 1 there, 2 now'
    """
    named = "; ".join(f"{key}: {said}" for key, said in [*differing.items()][:5])
    return named + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")


def format_interval(bounds: Sequence[float] | None) -> str:
    """Format the lower and the upper bound of a metric; None as nothing.

    Example:
        >>> format_interval([0.25, 0.75])
        '0.2500 … 0.7500'
    """
    return "" if bounds is None else f"{bounds[0]:.4f} … {bounds[1]:.4f}"


def format_figure(figure: float | str) -> str:
    """Format a figure of any size: thousands set apart, or four significant digits; text as it is.

    Example:
        >>> format_figure(1234.5), format_figure(0.123456)
        ('1,234', '0.1235')
    """
    if isinstance(figure, str):
        return figure
    if isinstance(figure, int) or abs(figure) >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.4g}"


def format_seconds(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours, to two significant digits.

    Example:
        >>> format_seconds(74), format_seconds(750)
        ('74 seconds', '12 minutes')
    """
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    count = max(1, round(seconds))
    return "1 second" if count == 1 else f"{count} seconds"


def format_size(size: float) -> str:
    """Format bytes as kB, MB or GB, to two significant digits.

    Example:
        >>> format_size(1_234_000)
        '1.2 MB'
    """
    for unit, least in (("GB", 10**9), ("MB", 10**6)):
        if size >= 0.95 * least:
            return f"{size / least:.2g} {unit}" if size < 100 * least else f"{size / least:,.0f} {unit}"
    return f"{size / 1000:.0f} kB"


def shorten(text: str, most: int = 60) -> str:
    """Cut a text that a user gave to what a message has room for.

    Example:
        >>> shorten("retrieved", 4)
        'retr…'
    """
    return text if len(text) <= most else f"{text[:most]}…"
