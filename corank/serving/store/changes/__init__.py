"""The changes of a store: their journal and log, and what becomes of earlier ones when a version goes live."""
