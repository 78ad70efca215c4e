"""Histories of users whose events are listed: how they are declared, and how lists are read."""
