"""Connections to what keeps a store: an LMDB environment, a Redis server."""
