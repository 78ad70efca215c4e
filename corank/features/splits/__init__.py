"""Which requests train, validate and test: by time, by ranges of time, by a column of the log, or by user."""
