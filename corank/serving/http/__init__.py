"""The funnel over HTTP."""
