"""Numbers as people read them, on the terminal and on pages."""

from collections.abc import Sequence


def format_metric(value: float | None) -> str:
    """Format a metric to four decimals; None, where it is not defined, as a dash.

    Example:
        >>> format_metric(0.5)
        '0.5000'
    """
    return "-" if value is None else f"{value:.4f}"


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


def shorten(text: str, most: int = 60) -> str:
    """Cut a text that a user gave to what a message has room for.

    Example:
        >>> shorten("retrieved", 4)
        'retr…'
    """
    return text if len(text) <= most else f"{text[:most]}…"
