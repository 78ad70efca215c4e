"""State that is kept from one packing to the next: counts of values, ids, events, input files."""
