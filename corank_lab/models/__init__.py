"""Stage models of the lab, by the entry point `corank.stages`."""
