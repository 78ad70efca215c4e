"""Public logs as corank's tables, and simulated worlds."""
