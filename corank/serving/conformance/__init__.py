"""Test cases for readers of bundles in other languages: requests, and what the funnel makes of each, step by step."""
