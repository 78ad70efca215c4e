"""Rank one request by the stages of a bundle."""
