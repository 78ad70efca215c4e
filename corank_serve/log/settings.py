"""When a file of the log is completed: once it has so many rows, or is so old. A process that is killed loses it."""

MAX_ROWS, MAX_SECONDS = 1_000_000, 60.0
