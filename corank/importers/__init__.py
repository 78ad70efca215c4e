"""Public logs as corank's tables: a module a source."""
