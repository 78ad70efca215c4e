"""The embedding tables: whole, the same on every rank, or sharded by row over the ranks; and how their rows learn."""
