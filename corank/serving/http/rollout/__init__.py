"""Canary and shadow: versions of a store that a service holds beside the live one."""
