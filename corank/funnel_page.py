"""The funnel page."""


def funnel_page() -> str:
    return "<!doctype html><title>corank</title>"
