"""Checks of a config and its log before anything is packed or trained: facts, advice, size."""
