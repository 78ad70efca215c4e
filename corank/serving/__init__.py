"""Stores, funnel and HTTP service, without torch."""
