"""What a lower precision of stored parts changes on logged requests."""
