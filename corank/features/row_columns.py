"""Names of columns that corank adds to rows of the user's tables. They begin with @, as no column of a feature does."""

ID = "@id"
"""The item, or the user, of a row of `items` or `users`."""
FROM = "@from"
"""The time from which such a row holds, ms UTC; NEVER if it always held."""
ROW = "@row"
"""The number of a row, in the order of its table."""
USER, ITEM, TIME, LEVEL, WEIGHT, POSITION = "@user", "@item", "@time", "@level", "@weight", "@position"
"""Of a candidate of the log: ids, time in ms UTC, code of the level, weight, position on the page."""
PROPENSITY = "@propensity"
"""Of a candidate of the log: the probability at which it was exposed."""
SPLIT = "@split"
"""Of a candidate of the log: the value by which it is split, if a column says it."""


def request_column(index: int) -> str:
    """Return the column of one part of the request key."""
    return f"@request {index}"


def label_column(label: str) -> str:
    """Return the column of a label."""
    return f"@label {label}"


def score_column(score: str) -> str:
    """Return the column of a logged score, as a logit."""
    return f"@score {score}"


def value_column(column: str) -> str:
    """Return the column of one of the data's `columns`."""
    return f"@value {column}"


def user_column(feature: str) -> str:
    """Return the column of a feature that is read from the table of users."""
    return f"@user {feature}"
