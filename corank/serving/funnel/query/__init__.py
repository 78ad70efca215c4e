"""The query of a request: its user, context and histories → an encoded row, and the items that histories name."""
