"""Canary and shadow: versions of a store that a service holds with the live one."""
