"""A store that is read by a process of its own, which may die of it without the service."""
