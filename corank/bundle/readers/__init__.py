"""Descriptions of a bundle for readers in other languages."""
